//! `data-patch health`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::config::Config;

pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let address = reachable(config.server.listen);
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(4_096).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .with_context(|| format!("{address} did not answer within 5 s"))?
        .with_context(|| format!("{address} does not answer"))?;
    anyhow::ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "{address} answers, and is not well: {}",
        answer.lines().next().unwrap_or("nothing")
    );
    super::out::line(&format!("alive: http://{address}/healthz"))?;
    Ok(ExitCode::SUCCESS)
}

/// Where a service that listens on every address is reached from here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) });
    }
    address
}
