//! What the real `adit serve` needs around it: an emulator with an instance, a store with a tenant. Both outlive the service.

use std::net::SocketAddr;
use std::process::Command;

use adit::store::{self, TargetDefaults};
use adit_emulator::{Credentials, Emulator, Instance, InstanceBackend};
use rustix::process::Signal;
use serde_json::Value;

use super::api::Api;
use super::background::{Background, program};
use super::holdings::Holdings;
use super::seed::{self, Seed};
use super::sshd::{Sshd, SshdOptions};
use super::store::TestStore;
use super::wait;

/// Opens `/admin`.
const ADMIN_TOKEN: &str = "an-admin-token-of-the-tests-0123456789abcdef";

/// Session channels of one connection to the instance, so that two tunnels carry all that the tests ask for at once.
const MAX_SESSIONS: usize = 40;

/// A place to run services at.
pub(crate) struct Site {
    pub(crate) emulator: Emulator,
    pub(crate) store: TestStore,
    pub(crate) seed: Seed,
    variables: Vec<(String, String)>,
    // Last, so that it outlives what may still be connected to it.
    _sshd: Option<Sshd>,
}

impl Site {
    /// A site with that store, which is migrated and filled.
    pub(crate) async fn start(store: TestStore) -> Self {
        Self::start_before(store, None).await
    }

    /// The same with a real sshd, where execs run as `adit-dash`.
    pub(crate) async fn start_over_sshd(store: TestStore) -> Self {
        let options = SshdOptions {
            max_sessions: MAX_SESSIONS,
            ..SshdOptions::default()
        };
        Self::start_before(store, Some(Sshd::start(options).await)).await
    }

    async fn start_before(store: TestStore, sshd: Option<Sshd>) -> Self {
        let credentials = Credentials::new("AKIDEXAMPLE", "the secret of the tests");
        let mut settings = adit_emulator::Settings::new(credentials.clone());
        settings.max_sessions = MAX_SESSIONS;
        if let Some(sshd) = &sshd {
            settings.instances = vec![Instance {
                id: seed::instance_id(0),
                private_ip_address: seed::address(0).to_string(),
                backend: InstanceBackend::External {
                    address: sshd.address(),
                    authorized_keys_dir: sshd.authorized_keys_dir(0),
                },
                ..Instance::default()
            }];
        }
        let os_user = if sshd.is_some() { "adit-dash" } else { "ubuntu" };
        let region = settings.region.clone();
        let emulator = Emulator::start(settings).await.unwrap();
        let seed = fill(&store, &region, os_user).await;
        let variables = [
            ("AWS_ACCESS_KEY_ID", credentials.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key),
            ("ADIT__HTTP__LISTEN", "127.0.0.1:0".to_owned()),
            ("ADIT__ADMIN__TOKENS", ADMIN_TOKEN.to_owned()),
            ("ADIT__STORE__URL", store.url()),
            ("ADIT__AWS__REGION", region),
            ("ADIT__AWS__KEY_PUSH_ENDPOINT_OVERRIDE", emulator.http_url()),
            ("ADIT__AWS__TUNNEL_ENDPOINT_OVERRIDE", emulator.tunnel_url()),
            ("ADIT__AWS__EC2_ENDPOINT_OVERRIDE", emulator.http_url()),
            ("ADIT__TUNNEL__CHANNEL_CAP", MAX_SESSIONS.to_string()),
            ("ADIT__LIMITS__EXECS_PER_TOKEN", "256".to_owned()),
        ];
        Self {
            emulator,
            store,
            seed,
            variables: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            _sshd: sshd,
        }
    }

    /// Changes a setting, named as its variable, of the services that are started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Starts a service and waits until it listens.
    pub(crate) async fn serve(&self) -> Service {
        let mut command = Command::new(program());
        command.arg("serve").envs(self.variables.iter().cloned());
        Service::start(&mut command).await
    }
}

async fn fill(store: &TestStore, region: &str, os_user: &str) -> Seed {
    let defaults = TargetDefaults {
        region: region.to_owned(),
        os_user: os_user.to_owned(),
        port: 22,
    };
    let url = store.url();
    store::migrate(&url).await.unwrap();
    let store = store::connect(&url, 1, defaults).await.unwrap();
    let seed = Seed::write(store.as_ref(), os_user, 1, true).await;
    store.close().await;
    seed
}

/// A running `adit serve`. Killed when it is dropped.
pub(crate) struct Service {
    process: Background,
    address: SocketAddr,
    pub(crate) api: Api,
}

impl Service {
    async fn start(command: &mut Command) -> Self {
        let process = Background::start(command);
        let address = wait::until("`adit serve` listens", async || address_in(&process.printed())).await;
        Self {
            process,
            address,
            api: Api::new(format!("http://{address}"), &[]),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What an operator sees of its tunnels: one entry an instance.
    pub(crate) async fn tunnels(&self) -> Vec<Value> {
        let answer = self.api.get("/admin/tunnels", Some(ADMIN_TOKEN)).await;
        answer.json()["data"].as_array().unwrap().clone()
    }

    /// What it holds of the system now.
    pub(crate) fn holdings(&self) -> Holdings {
        Holdings::of(self.process.process.id())
    }

    /// The most memory it has ever held, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(mut self) {
        self.process.signal(Signal::KILL);
        assert_eq!(
            self.process.ended().await,
            None,
            "it did not end by itself before"
        );
    }

    /// Sends it SIGTERM and gives its exit code.
    pub(crate) async fn terminate(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits for its end after a signal, and gives its exit code.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        self.process.ended().await
    }
}

fn address_in(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on http://")?;
    rest.split_whitespace().next()?.parse().ok()
}
