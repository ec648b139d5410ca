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
    let address = loopback_if_unspecified(config.server.listen);
    let request = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut response = String::new();
        stream.take(4_096).read_to_string(&mut response).await?;
        Ok::<_, std::io::Error>(response)
    };
    let response = tokio::time::timeout(Duration::from_secs(5), request)
        .await
        .with_context(|| format!("{address} did not answer within 5 s"))?
        .with_context(|| format!("{address} does not answer"))?;
    anyhow::ensure!(
        response.starts_with("HTTP/1.1 200"),
        "{address} answers, but is not healthy: {}",
        response.lines().next().unwrap_or("nothing")
    );
    super::out::line(&format!("alive: http://{address}/healthz"))?;
    Ok(ExitCode::SUCCESS)
}

/// Replaces an unspecified address by the loopback address.
fn loopback_if_unspecified(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) });
    }
    address
}
