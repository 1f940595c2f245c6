//! The rules, and the way through a proxy that listens.

use std::time::Duration;

use adit_actors::clock::Clock;
use adit_actors::tunnel::{DialError, Dialed, Dialer, Location, chain};
use aws_credential_types::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::super::test_support::{Service, accept_tunnel, hint, read_head, target, test_authority};
use super::super::{AwsConnection, AwsOptions};
use super::*;

fn variables(http: &str, https: &str, all: &str, no: &str) -> ProxyVariables {
    ProxyVariables {
        http: http.to_owned(),
        https: https.to_owned(),
        all: all.to_owned(),
        no: no.to_owned(),
    }
}

#[test]
fn which_proxy_is_meant_for_which_target() {
    let own = variables("http://h:1", "https://s:2", "http://a:3", "");
    let all = variables("", "", "a:3", "");
    let except = |no| variables("", "http://s:2", "", no);
    let endpoint = "https://eice-1.ec2-instance-connect-endpoint.us-east-2.amazonaws.com:443/";
    let table = [
        (own.clone(), "http://x/", Some("http://h:1/")),
        (own, "https://x/", Some("https://s:2/")),
        (all.clone(), "http://x/", Some("http://a:3/")),
        (all, "https://x/", Some("http://a:3/")),
        (except(""), "http://x/", None),
        (except(""), endpoint, Some("http://s:2/")),
        (except("*"), endpoint, None),
        (except("amazonaws.com"), endpoint, None),
        (except(".amazonaws.com"), endpoint, None),
        (except("x.org, us-east-2.amazonaws.com"), endpoint, None),
        (except("aws.com"), endpoint, Some("http://s:2/")),
        (except("10.0.0.0/8"), "https://10.1.2.3:443/", None),
        (except("10.0.0.0/8"), "https://11.1.2.3:443/", Some("http://s:2/")),
        (except("::1"), "https://[::1]:443/", None),
        (variables("", "", "", "x"), "https://y/", None),
    ];
    for (variables, target, expected) in table {
        let proxy = Proxies::new(&variables).unwrap().of(&target.parse().unwrap());
        let found = proxy.map(|proxy| proxy.uri().to_string());
        assert_eq!(found.as_deref(), expected, "{variables:?} {target}");
    }
}

#[test]
fn what_is_no_proxy_is_named_and_not_quoted() {
    let table = [
        (variables("", "not a URL:hunter2", "", ""), "`HTTPS_PROXY`"),
        (variables("ftp://hunter2@x", "", "", ""), "`HTTP_PROXY`"),
        (variables("", "", "socks5://u:hunter2@x:1080", ""), "`socks5`"),
    ];
    for (variables, named) in table {
        let refusal = Proxies::new(&variables).unwrap_err().to_string();
        assert!(refusal.contains(named), "{refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
    // One that no target would use does no harm.
    Proxies::new(&variables("http://a:1", "http://a:1", "socks5://x:1080", "")).unwrap();
    let proxies = Proxies::new(&variables("", "http://user:hunter2@x", "", "")).unwrap();
    assert!(!format!("{proxies:?}").contains("hunter2"));
}

/// A proxy that opens one way, whatever it is asked for, when it answers with success.
struct ConnectProxy {
    address: std::net::SocketAddr,
    heads: tokio::sync::mpsc::UnboundedReceiver<String>,
    _task: AbortOnDropHandle<()>,
}

async fn proxy(
    tls: Option<TlsAcceptor>,
    answer: &'static str,
    leads_to: std::net::SocketAddr,
) -> ConnectProxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        loop {
            let (socket, _peer) = listener.accept().await.unwrap();
            let mut client: Socket = match &tls {
                None => Box::new(socket),
                Some(tls) => Box::new(tls.accept(socket).await.unwrap()),
            };
            sender.send(read_head(&mut client).await).unwrap();
            client.write_all(answer.as_bytes()).await.unwrap();
            if answer.starts_with("HTTP/1.1 200") {
                let mut server = TcpStream::connect(leads_to).await.unwrap();
                // Either side may go first.
                copy_bidirectional(&mut client, &mut server).await.ok();
            }
        }
    });
    ConnectProxy {
        address,
        heads,
        _task: AbortOnDropHandle::new(task),
    }
}

async fn dial(
    tunnel_endpoint: &str,
    proxies: ProxyVariables,
    roots: Vec<rustls::pki_types::CertificateDer<'static>>,
) -> Result<Dialed, DialError> {
    let options = AwsOptions {
        credentials: Some(Credentials::new("access_key", "secret_key", None, None, "test")),
        tunnel_endpoint: Some(tunnel_endpoint.parse().unwrap()),
        extra_roots: roots,
        proxies,
        ..AwsOptions::new("us-west-2")
    };
    let aws = AwsConnection::open(options, Clock::system()).await.unwrap();
    let location = Location {
        address: "10.1.2.3".parse().unwrap(),
        port: 22,
        endpoint: Some(hint("eice-0123")),
    };
    aws.dialer().dial(&target(), &location).await
}

const OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn a_tunnel_goes_through_the_proxy_and_tls_through_it_to_the_endpoint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (root, acceptor) = test_authority("endpoint.invalid");
    let (proxy_root, proxy_acceptor) = test_authority("localhost");
    let endpoint = listener.local_addr().unwrap();
    for proxy_tls in [None, Some(proxy_acceptor)] {
        let scheme = if proxy_tls.is_some() { "https" } else { "http" };
        let mut proxy = proxy(proxy_tls, OPEN, endpoint).await;
        let url = format!("{scheme}://us%40er:p%3Ass@localhost:{}", proxy.address.port());
        let serving = async {
            let (socket, _peer) = listener.accept().await.unwrap();
            accept_tunnel(acceptor.accept(socket).await.unwrap()).await
        };
        let roots = vec![root.clone(), proxy_root.clone()];
        // A name that nobody resolves: only the proxy knows the way.
        let dialing = dial(
            "wss://endpoint.invalid:8443",
            variables("", &url, "", "x.org"),
            roots,
        );
        let (dialed, head) = tokio::join!(dialing, serving);
        let mut banner = String::new();
        dialed.unwrap().stream.read_to_string(&mut banner).await.unwrap();
        assert_eq!(banner, "SSH-2.0-x");
        assert!(
            head.to_ascii_lowercase().contains("host: endpoint.invalid:8443"),
            "{head}"
        );
        assert!(
            !head.contains("roxy-"),
            "the proxy's password is not for the endpoint: {head}"
        );

        let asked = proxy.heads.recv().await.unwrap();
        assert!(
            asked.starts_with("CONNECT endpoint.invalid:8443 HTTP/1.1\r\n"),
            "{asked}"
        );
        // base64 of `us@er:p:ss`
        let expected = "proxy-authorization: Basic dXNAZXI6cDpzcw==\r\n";
        assert!(asked.contains(expected), "{asked}");
    }
}

#[tokio::test]
async fn no_proxy_goes_around_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    let mut proxy = proxy(None, OPEN, endpoint).await;
    let url = format!("http://{}", proxy.address);
    for (no, through_proxy) in [("", true), ("localhost,127.0.0.0/8", false)] {
        let serving = async { accept_tunnel(listener.accept().await.unwrap().0).await };
        let tunnel_endpoint = format!("ws://{endpoint}");
        let dialing = dial(&tunnel_endpoint, variables(&url, "", "", no), Vec::new());
        let (dialed, _head) = tokio::join!(dialing, serving);
        dialed.unwrap();
        assert_eq!(proxy.heads.try_recv().is_ok(), through_proxy, "{no}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_proxy_and_its_status_and_no_password() {
    let table = [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "407",
        ),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
        ("SSH-2.0-not a proxy\r\n\r\n", "no HTTP answer"),
        ("HTTP/1.1 200 OK\r\n\r\nSSH-2.0-unasked", "before it was sent any"),
    ];
    for (answer, named) in table {
        // What it leads to never speaks first.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = proxy(None, answer, silent.local_addr().unwrap()).await;
        let url = format!("http://user:hunter2@{}", proxy.address);
        let dialed = dial("ws://endpoint.invalid", variables(&url, "", "", ""), Vec::new()).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, DialError::Unreachable(_)), "{error:?}");
        let chain = chain(&error);
        assert!(chain.contains(named), "{chain}");
        assert!(chain.contains(&format!("`{}`", proxy.address)), "{chain}");
        assert!(
            !chain.contains("hunter2") && !format!("{error:?}").contains("hunter2"),
            "{chain}"
        );
    }
}

#[tokio::test]
async fn calls_that_are_signed_by_hand_go_through_the_proxy_too() {
    let (root, acceptor) = test_authority("ec2.invalid");
    let ec2 = Service::start(Some(acceptor), |_, _| (400, String::new())).await;
    let mut proxy = proxy(None, OPEN, ec2.address).await;
    let roots = super::super::tls::Roots::of_the_system_and(vec![root]);
    let url = format!("http://user:p%3Ass@{}", proxy.address);
    for (no, through_proxy) in [("", true), ("ec2.invalid", false)] {
        let proxies = Proxies::new(&variables("", &url, "", no)).unwrap();
        let builder = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .tls_backend_preconfigured(roots.client_config().unwrap());
        let client = proxies.apply_to(builder).unwrap().build().unwrap();
        let answered = client.get("https://ec2.invalid/").send().await.is_ok();
        assert_eq!(answered, through_proxy, "the name does not resolve");
        if through_proxy {
            let asked = proxy.heads.recv().await.unwrap();
            assert!(
                asked.starts_with("CONNECT ec2.invalid:443 HTTP/1.1\r\n"),
                "{asked}"
            );
            assert!(asked.contains("Basic dXNlcjpwOnNz\r\n"), "{asked}");
        }
    }
}
