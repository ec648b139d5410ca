//! A TCP proxy in front of PostgreSQL, which simulates a slow, silent or broken network.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
};

/// The behaviour of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Fast,
    /// Small chunks, each delayed.
    Slow,
    /// Nothing is delivered until the silence is over; nothing is lost.
    Silent,
    /// Silent; and open connections stay silent for ever, as behind a firewall that has dropped its
    /// state.
    Forgetful,
}

/// The ports from which the server is connected to.
type Ports = Arc<Mutex<HashSet<u16>>>;

/// A proxy, which runs until this is dropped.
pub struct Proxy {
    network: watch::Sender<Network>,
    address: String,
    server_address: String,
    ports: Ports,
    _running: JoinSet<()>,
}

impl Proxy {
    /// Starts a proxy in front of the server in a URL.
    pub async fn in_front_of(url: &str) -> Self {
        let server_address = url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (network, seen) = watch::channel(Network::Fast);
        let mut running = JoinSet::new();
        let ports = Ports::default();
        running.spawn(serve(listener, server_address.clone(), seen, Arc::clone(&ports)));
        Self { network, address, server_address, ports, _running: running }
    }

    /// The URL with the proxy's address.
    pub fn url(&self, url: &str) -> String {
        url.replacen(&self.server_address, &self.address, 1)
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// The ports that the server sees its connections come from.
    pub fn ports(&self) -> Vec<i32> {
        self.ports.lock().unwrap().iter().map(|port| i32::from(*port)).collect()
    }
}

async fn serve(listener: TcpListener, server_address: String, network: watch::Receiver<Network>, ports: Ports) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(connection(client, server_address.clone(), network.clone(), Arc::clone(&ports)));
        // Removes finished connections.
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, until either side closes it.
async fn connection(client: TcpStream, server_address: String, mut network: watch::Receiver<Network>, ports: Ports) {
    let silent = |network: &Network| matches!(network, Network::Silent | Network::Forgetful);
    // A new connection is only delayed.
    if network.wait_for(|network| !silent(network)).await.is_err() {
        return;
    }
    // If PostgreSQL is down, the client's connection is closed.
    let Ok(server) = TcpStream::connect(server_address).await else { return };
    let port = server.local_addr().unwrap().port();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    ports.lock().unwrap().insert(port);
    tokio::select! {
        () = pump(from_client, to_server, network.clone()) => {}
        () = pump(from_server, to_client, network) => {}
    }
    ports.lock().unwrap().remove(&port);
}

async fn pump(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut network: watch::Receiver<Network>) {
    /// With [`DELAY`], 200 KB/s per connection.
    const CHUNK: usize = 8_192;
    const DELAY: Duration = Duration::from_millis(40);
    let mut chunk = vec![0; CHUNK];
    loop {
        // Idle connections are affected too.
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            () = forgotten(&mut network) => return std::future::pending().await,
        };
        let Ok(bytes @ 1..) = read else { return };
        let now = *network.borrow();
        match now {
            Network::Fast => {}
            Network::Slow => tokio::time::sleep(DELAY).await,
            Network::Silent => {
                if network.wait_for(|network| *network != Network::Silent).await.is_err() {
                    return;
                }
            }
            Network::Forgetful => return std::future::pending().await,
        }
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
}

/// Waits until open connections are dropped.
async fn forgotten(network: &mut watch::Receiver<Network>) {
    if network.wait_for(|network| *network == Network::Forgetful).await.is_err() {
        std::future::pending::<()>().await;
    }
}
