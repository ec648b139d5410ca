//! A proxy in front of a real Elasticsearch or `OpenSearch`, which demands credentials, changes
//! answers, cuts them, or never answers.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub body: String,
}

/// What the proxy does with a request.
pub enum Reply {
    Forward,
    /// Answers itself, with this status.
    Answer(u16, String),
    /// Changes what the server answers.
    Change(Box<dyn Fn(String) -> String + Send>),
    /// Forwards it, and breaks the connection in the middle of the answer.
    Cut,
    /// Never answers.
    Hang,
}

type Rule = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A running proxy, which ends when dropped.
pub struct ElasticProxy {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _server: AbortOnDropHandle<()>,
}

impl Asked {
    /// Whether it reads documents by a plain search.
    pub fn is_search(&self) -> bool {
        self.path.contains("/_search?") && !self.begins_scroll() && !self.body.contains("\"size\":1,")
    }

    pub fn begins_scroll(&self) -> bool {
        self.path.contains("&scroll=")
    }

    pub fn continues_scroll(&self) -> bool {
        self.path == "/_search/scroll" && self.method == "POST"
    }
}

impl ElasticProxy {
    pub async fn start(server: &str, rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(server, None, rule).await
    }

    /// Speaks TLS with a certificate of this authority.
    pub async fn start_tls(
        server: &str,
        authority: &Authority,
        needs_client_certificate: bool,
        rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(server, Some(authority.acceptor(needs_client_certificate)), rule).await
    }

    async fn listen(server: &str, tls: Option<TlsAcceptor>, rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{}://{}", if tls.is_some() { "https" } else { "http" }, listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let backend = Arc::new(Backend {
            server: server.to_owned(),
            client: reqwest::Client::new(),
            rule: Box::new(rule),
            asked: Arc::clone(&asked),
        });
        let accept = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, backend) = (tls.clone(), Arc::clone(&backend));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, backend).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, backend).await;
                            }
                        }
                    }
                });
            }
        };
        Self { url, asked, _server: AbortOnDropHandle::new(tokio::spawn(accept)) }
    }

    /// The requests up to now.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }
}

struct Backend {
    server: String,
    client: reqwest::Client,
    rule: Box<Rule>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, backend: Arc<Backend>) {
    let service = service_fn(move |request| {
        let backend = Arc::clone(&backend);
        async move { Ok::<_, Infallible>(backend.answer(request).await) }
    });
    // An answer that is cut ends the connection with an error, as does a client that leaves.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Body = BoxBody<Bytes, std::io::Error>;

fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

impl Backend {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let asked = Asked {
            method: head.method.to_string(),
            path: head.uri.to_string(),
            authorization: head.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned()),
            body: String::from_utf8(body.to_vec()).unwrap(),
        };
        let reply = (self.rule)(&asked);
        self.asked.lock().unwrap().push(asked.clone());
        let answered = |status: u16, body: Body| Response::builder().status(status).body(body).unwrap();
        match reply {
            Reply::Answer(status, text) => answered(status, whole(text)),
            Reply::Hang => std::future::pending().await,
            Reply::Forward => {
                let (status, body) = self.forward(&asked).await;
                answered(status, whole(body))
            }
            Reply::Change(change) => {
                let (status, body) = self.forward(&asked).await;
                answered(status, whole(change(String::from_utf8(body.to_vec()).unwrap())))
            }
            Reply::Cut => {
                let (status, body) = self.forward(&asked).await;
                let length = body.len();
                let half = Ok(Frame::data(body.slice(..length / 2)));
                let broken = Err(std::io::Error::other("cut"));
                let mut answer = answered(status, StreamBody::new(stream::iter([half, broken])).boxed());
                answer.headers_mut().insert(CONTENT_LENGTH, length.into());
                answer
            }
        }
    }

    async fn forward(&self, asked: &Asked) -> (u16, Bytes) {
        let request = self
            .client
            .request(asked.method.parse().unwrap(), format!("{}{}", self.server, asked.path))
            .header(CONTENT_TYPE, "application/json")
            .body(asked.body.clone());
        match request.send().await {
            Ok(answer) => (answer.status().as_u16(), answer.bytes().await.unwrap_or_default()),
            Err(error) => (502, error.to_string().into()),
        }
    }
}

/// An authority that signs the certificates of servers and clients.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The certificate of a client, and its key, as PEM.
    pub fn client_pem(&self) -> String {
        let (certificate, key) = self.sign(vec![SanType::DnsName("data-patch".try_into().unwrap())]);
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }

    fn sign(&self, names: Vec<SanType>) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names = names;
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn acceptor(&self, needs_client_certificate: bool) -> TlsAcceptor {
        let (certificate, key) = self.sign(vec![SanType::IpAddress(IpAddr::from([127, 0, 0, 1]))]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = if needs_client_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}
