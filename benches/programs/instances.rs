//! The emulator as the benches need it and the command line does not have it: with a thousand in-process instances, whose
//! memory is then not Adit's, or with an sshd at the end of a long link.
//!
//! Prints what `adit emulator` prints, and runs until it is ended.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use adit_emulator::{Credentials, Emulator, Faults, HostKey, Instance, InstanceBackend, Settings};

const USAGE: &str =
    "usage: instances in-process COUNT | instances distant HOST:PORT KEYS_DIRECTORY ROUND_TRIP_MS";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let instances = match arguments.as_slice() {
        ["in-process", count] => (0..count.parse::<u16>()?).map(in_process).collect(),
        ["distant", address, keys, round_trip] => {
            vec![distant(address.parse()?, keys.into(), round_trip.parse()?)]
        }
        _ => return Err(USAGE.into()),
    };
    let credentials = Credentials::new(
        std::env::var("AWS_ACCESS_KEY_ID")?,
        std::env::var("AWS_SECRET_ACCESS_KEY")?,
    );
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(credentials, instances))
}

async fn serve(credentials: Credentials, instances: Vec<Instance>) -> Result<(), Box<dyn Error>> {
    let mut settings = Settings::new(credentials);
    settings.region = "us-east-2".to_owned();
    settings.max_connections = instances.len() + 20;
    settings.instances.clone_from(&instances);
    let endpoints: Vec<String> = settings
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id.clone())
        .collect();
    let emulator = Emulator::start(settings).await?;
    println!("key push:    {}", emulator.http_url());
    println!("open tunnel: {}", emulator.tunnel_url());
    println!("endpoint:    {}", endpoints.join(", "));
    for instance in instances {
        println!(
            "instance:    {} at {}, of a bench",
            instance.id, instance.private_ip_address
        );
    }
    // There is nothing to put in order at the end.
    std::future::pending().await
}

fn in_process(number: u16) -> Instance {
    let [high, low] = number.to_be_bytes();
    Instance {
        id: format!("i-{number:017x}"),
        private_ip_address: Ipv4Addr::new(10, 0, high, low).to_string(),
        backend: InstanceBackend::InProcess {
            host_key: HostKey::generate(),
        },
        ..Instance::default()
    }
}

fn distant(address: SocketAddr, authorized_keys_dir: PathBuf, round_trip_ms: u64) -> Instance {
    Instance {
        id: format!("i-{:017x}", 0),
        faults: Faults {
            round_trip: Duration::from_millis(round_trip_ms),
            ..Faults::default()
        },
        backend: InstanceBackend::External {
            address,
            authorized_keys_dir,
        },
        ..Instance::default()
    }
}
