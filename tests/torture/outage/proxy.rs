//! A TCP proxy in front of PostgreSQL: the network between it and the service, slow, silent or broken.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Fast,
    /// Each piece comes late, and pieces are small.
    Slow,
    /// Nothing comes through, and nothing is lost: it comes when the silence is over.
    Silent,
    /// As silent; and connections that were open stay so for ever, as behind a firewall that has forgotten them.
    Forgetful,
}

/// On its way until this is dropped.
pub struct Proxy {
    network: watch::Sender<Network>,
    address: String,
    behind: String,
    _running: JoinSet<()>,
}

impl Proxy {
    /// A proxy in front of the server that a URL names.
    pub async fn before(url: &str) -> Self {
        let behind = url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (network, seen) = watch::channel(Network::Fast);
        let mut running = JoinSet::new();
        running.spawn(serve(listener, behind.clone(), seen));
        Self { network, address, behind, _running: running }
    }

    /// The URL of the same server, through this.
    pub fn url(&self, url: &str) -> String {
        url.replacen(&self.behind, &self.address, 1)
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn serve(listener: TcpListener, behind: String, network: watch::Receiver<Network>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(connection(client, behind.clone(), network.clone()));
        // Those that have ended.
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, until either side closes it.
async fn connection(client: TcpStream, behind: String, mut network: watch::Receiver<Network>) {
    let silent = |network: &Network| matches!(network, Network::Silent | Network::Forgetful);
    // A connection that is new is not forgotten, only late.
    if network.wait_for(|network| !silent(network)).await.is_err() {
        return;
    }
    // PostgreSQL may be away: then the client is told by closing.
    let Ok(server) = TcpStream::connect(behind).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_client, to_server, network.clone()) => {}
        () = pump(from_server, to_client, network) => {}
    }
}

async fn pump(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut network: watch::Receiver<Network>) {
    /// With [`LATE`] it makes 200 KB a second, a connection.
    const PIECE: usize = 8_192;
    const LATE: Duration = Duration::from_millis(40);
    let mut piece = vec![0; PIECE];
    loop {
        // A forgetful network is noticed by a connection that is idle, too.
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            () = forgotten(&mut network) => return std::future::pending().await,
        };
        let Ok(bytes @ 1..) = read else { return };
        let now = *network.borrow();
        match now {
            Network::Fast => {}
            Network::Slow => tokio::time::sleep(LATE).await,
            Network::Silent => {
                if network.wait_for(|network| *network != Network::Silent).await.is_err() {
                    return;
                }
            }
            Network::Forgetful => return std::future::pending().await,
        }
        if to.write_all(&piece[..bytes]).await.is_err() {
            return;
        }
    }
}

/// Returns when the network forgets what is open.
async fn forgotten(network: &mut watch::Receiver<Network>) {
    if network.wait_for(|network| *network == Network::Forgetful).await.is_err() {
        std::future::pending::<()>().await;
    }
}
