//! The whole service in this process, with an emulator in front of an instance of the test's choice.

use std::cell::Cell;

use adit::application::open_store;
use adit::aws::{AwsConnection, AwsOptions};
use adit::pem_files::read_certificates;
use adit::settings::Settings;
use adit::store;
use adit_actors::clock::Clock;
use adit_actors::instance::{EndpointHint, InstanceKey, InstanceTarget};
use adit_actors::tunnel::{DialError, Dialed, Dialer as _, Location};
use adit_emulator::{Credentials, Emulator, HostKey, Instance, InstanceBackend};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::api::Api;
use super::rows::Row;
use super::seed::{self, Seed};
use super::sshd::{Person, Sshd, SshdOptions};
use super::store::TestStore;
use super::{launch, logs, processes, wait};

const REGION: &str = "us-east-1";
const ENDPOINT_ID: &str = "eice-0123456789abcdef0";
const ENDPOINT_DNS_NAME: &str = "eice-0123456789abcdef0.example";

/// Opens `/admin`.
pub(crate) const ADMIN_TOKEN: &str = "an-admin-token-of-the-tests-0123456789abcdef";

/// What stands behind the instance's port 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The emulator's own SSH server.
    InProcess,
    /// OpenSSH, with a login whose shell is bash.
    OpenSshBash,
    /// OpenSSH, with a login whose shell is dash.
    OpenSshDash,
    /// OpenSSH, with a login whose shell is busybox.
    OpenSshBusybox,
    /// OpenSSH, with a login as root: before OpenSSH 10 it refuses signals there.
    OpenSshRoot,
}

impl Backend {
    fn os_user(self) -> &'static str {
        match self {
            Self::InProcess => "ubuntu",
            Self::OpenSshBash => "adit-bash",
            Self::OpenSshDash => "adit-dash",
            Self::OpenSshBusybox => "adit-busybox",
            Self::OpenSshRoot => "root",
        }
    }
}

/// How many instances there are, and what their sshd is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet {
    /// All behind the one endpoint, each with an address, keys and a workspace of its own; one real sshd stands for all.
    pub(crate) instances: usize,
    /// `MaxSessions` of that sshd.
    pub(crate) max_sessions: usize,
    /// `ForceCommand` of that sshd.
    pub(crate) forced_command: Option<&'static str>,
    /// Whether the workspaces say where their instances are.
    pub(crate) addresses_are_known: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            instances: 1,
            max_sessions: SshdOptions::default().max_sessions,
            forced_command: None,
            addresses_are_known: true,
        }
    }
}

/// What a test may change before the start.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    pub(crate) emulator: adit_emulator::Settings,
}

impl Setup {
    /// One channel to the instance, and none ahead of use: whoever does not have it waits.
    pub(crate) fn allow_one_channel(&mut self) {
        self.settings.tunnel.channel_cap = 1;
        self.settings.tunnel.spare_channels = 0;
        self.settings.tunnel.max_tunnels_per_instance = 1;
    }
}

/// A running service. [`TestApp::finish`] must end it: it checks that nothing has leaked.
pub(crate) struct TestApp {
    pub(crate) seed: Seed,
    pub(crate) api: Api,
    /// The API of the listener that `admin.listen` asks for.
    pub(crate) admin_api: Option<Api>,
    pub(crate) emulator: Emulator,
    application: launch::Running,
    store: TestStore,
    unfinished: Unfinished,
    os_user: &'static str,
    credentials: Credentials,
    others: Others,
    // Last, so that it outlives what may still be connected to it.
    sshd: Option<Sshd>,
}

/// What the emulator and sshd see of others than the service.
#[derive(Default)]
struct Others {
    tunnels: Cell<u64>,
    logins: Cell<u64>,
}

/// Fails a test that forgets [`TestApp::finish`], unless it fails already.
struct Unfinished;

impl Drop for Unfinished {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking(),
            "a test must end its service with `finish`, which checks for leaks"
        );
        eprintln!(
            "--- warnings of all services so far ---\n{}--- end of them ---",
            logs::warnings()
        );
    }
}

impl TestApp {
    /// A service with the default settings.
    pub(crate) async fn start(backend: Backend) -> Self {
        Self::start_with(backend, |_setup| {}).await
    }

    /// A service with settings that `change` has changed.
    pub(crate) async fn start_with(backend: Backend, change: impl FnOnce(&mut Setup)) -> Self {
        Self::start_fleet(backend, Fleet::default(), change).await
    }

    /// A service with the default settings and that store.
    pub(crate) async fn start_on(store: TestStore, backend: Backend) -> Self {
        Self::start_on_with(store, backend, |_setup| {}).await
    }

    /// A service with that store, and settings that `change` has changed.
    pub(crate) async fn start_on_with(
        store: TestStore,
        backend: Backend,
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        Self::start_all(store, backend, Fleet::default(), change).await
    }

    /// A service with several instances, or with an sshd that is not like a stock one.
    pub(crate) async fn start_fleet(backend: Backend, fleet: Fleet, change: impl FnOnce(&mut Setup)) -> Self {
        Self::start_all(TestStore::sqlite(), backend, fleet, change).await
    }

    async fn start_all(
        store: TestStore,
        backend: Backend,
        fleet: Fleet,
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        logs::capture();
        let options = SshdOptions {
            max_sessions: fleet.max_sessions,
            instances: fleet.instances,
            forced_command: fleet.forced_command,
        };
        let sshd = match backend {
            Backend::InProcess => None,
            _ => Some(Sshd::start(options).await),
        };
        let mut setup = Setup {
            settings: settings(store.url()),
            emulator: emulator_settings(sshd.as_ref(), fleet),
        };
        change(&mut setup);
        let credentials = setup.emulator.credentials.clone();
        let emulator = Emulator::start(setup.emulator).await.unwrap();
        setup.settings.aws.key_push_endpoint_override = Some(emulator.http_url());
        setup.settings.aws.tunnel_endpoint_override = Some(emulator.tunnel_url());
        setup.settings.aws.ec2_endpoint_override = Some(emulator.http_url());

        let certificate = setup.settings.http.tls_cert_file.clone();
        let seed = prepare_store(&setup.settings, backend.os_user(), fleet).await;
        let application = launch::start(setup.settings, &credentials).await;
        let (scheme, roots) = match certificate {
            None => ("http", Vec::new()),
            Some(file) => ("https", read_certificates(&file).unwrap()),
        };
        let api = Api::new(application.url(), &roots);
        let admin_api_at = |address| Api::new(format!("{scheme}://{address}"), &roots);
        let admin_api = application.admin_address().map(admin_api_at);
        Self {
            seed,
            api,
            admin_api,
            emulator,
            application,
            store,
            unfinished: Unfinished,
            os_user: backend.os_user(),
            credentials,
            others: Others::default(),
            sshd,
        }
    }

    /// Runs `body` in the default workspace and waits for the whole of it.
    pub(crate) async fn run(&self, body: Value) -> super::api::Answer {
        let workspace = self.seed.workspace();
        self.api.exec_json(workspace.id, &workspace.token, &body).await
    }

    /// Runs `body` on an instance of the fleet, from 0, and waits for the whole of it.
    pub(crate) async fn run_on(&self, instance: usize, body: Value) -> super::api::Answer {
        let workspace = self.seed.of_instance(instance);
        self.api.exec_json(workspace.id, &workspace.token, &body).await
    }

    /// Runs `body` in the default workspace as a stream.
    pub(crate) async fn stream(&self, body: Value) -> super::api::Answer {
        let workspace = self.seed.workspace();
        self.api.exec_stream(workspace.id, &workspace.token, &body).await
    }

    /// All audit rows, oldest first.
    pub(crate) async fn rows(&self) -> Vec<Row> {
        self.store.rows().await
    }

    /// The only audit row.
    pub(crate) async fn only_row(&self) -> Row {
        let mut rows = self.rows().await;
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows.remove(0)
    }

    /// What its rows are kept in.
    pub(crate) fn store(&self) -> &TestStore {
        &self.store
    }

    /// What the real sshd behind the instance has logged so far.
    pub(crate) fn sshd_log(&self) -> String {
        self.sshd.as_ref().expect("a backend with a real sshd").log()
    }

    /// `GET /admin/tunnels`.
    pub(crate) async fn tunnels(&self) -> Value {
        let api = self.admin_api.as_ref().unwrap_or(&self.api);
        let answer = api.get("/admin/tunnels", Some(ADMIN_TOKEN)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until every tunnel has its warden (`ready`), or is known to have none (`none`).
    pub(crate) async fn until_wardens_are(&self, state: &str) {
        super::wait::until_true("the wardens are settled", async || {
            let seen = self.tunnels().await;
            let instances = seen["data"].as_array().unwrap().iter();
            let mut tunnels = instances.flat_map(|instance| instance["tunnels"].as_array().unwrap());
            tunnels.all(|tunnel| tunnel["warden"] == state)
        })
        .await;
    }

    /// A call of the admin API.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> super::api::Answer {
        self.api.call(method, path, Some(ADMIN_TOKEN), body).await
    }

    /// The service has logged in to the real sshd once without a tunnel.
    pub(crate) fn expect_direct_login(&self) {
        self.others.logins.update(|count| count + 1);
    }

    /// Somebody logs in to the real sshd beside Adit, with a key of their own and not through the endpoint.
    pub(crate) async fn person(&self) -> Person {
        let person = Person::log_in(self.sshd.as_ref().expect("a real sshd"), self.os_user).await;
        self.others.logins.update(|count| count + 1);
        person
    }

    /// Somebody else opens a tunnel to an instance of the fleet, from 0, which is open until it is dropped.
    pub(crate) async fn strangers_tunnel(&self, instance: usize) -> Result<Dialed, DialError> {
        let options = AwsOptions {
            credentials: Some(launch::aws_credentials(&self.credentials)),
            tunnel_endpoint: Some(self.emulator.tunnel_url().parse().unwrap()),
            ..AwsOptions::new(REGION.to_owned())
        };
        let aws = AwsConnection::open(options, Clock::system()).await.unwrap();
        let endpoint = EndpointHint {
            endpoint_id: ENDPOINT_ID.to_owned(),
            dns_name: ENDPOINT_DNS_NAME.to_owned(),
        };
        let target = InstanceTarget {
            instance: InstanceKey {
                region: REGION.to_owned(),
                instance_id: seed::instance_id(instance),
            },
            os_user: self.os_user.to_owned(),
            availability_zone: None,
            address: Some(seed::address(instance)),
            port: None,
            endpoint: Some(endpoint.clone()),
        };
        let location = Location {
            address: seed::address(instance),
            port: 22,
            endpoint: Some(endpoint),
        };
        let tunnel = aws.dialer().dial(&target, &location).await?;
        self.others.tunnels.update(|count| count + 1);
        Ok(tunnel)
    }

    /// Ends the service in order and checks that no lease, row, tunnel or process of it is left.
    pub(crate) async fn finish(self) {
        self.finish_but_for_the_store().await;
    }

    /// Ends the service while execs run on it, and gives the rows that it leaves.
    pub(crate) async fn stop_under_way(self) -> Vec<Row> {
        self.application.stop().await;
        let rows = self.store.rows().await;
        self.emulator.stop().await;
        std::mem::forget(self.unfinished);
        rows
    }

    /// The same, and gives the store as the service leaves it.
    pub(crate) async fn finish_but_for_the_store(self) -> TestStore {
        wait::until_true("no exec holds a lease or waits for one", async || {
            is_idle(&self.tunnels().await)
        })
        .await;
        let rows = self.rows().await;
        let running: Vec<&Row> = rows.iter().filter(|row| row.status == "running").collect();
        assert!(running.is_empty(), "rows without an end: {running:#?}");
        wait::until_true("every process of an exec has ended with it", async || {
            let left = processes::values_of("ADIT_EXEC_ID");
            rows.iter().all(|row| !left.contains(&row.id.to_string()))
        })
        .await;
        let Self {
            application,
            emulator,
            unfinished,
            others,
            sshd,
            store,
            ..
        } = self;
        let something_ran = rows.iter().any(|row| {
            row.response_body
                .as_ref()
                .is_some_and(|exec| exec["ran"] == "yes")
        });
        if let Some(sshd) = sshd.as_ref().filter(|_| something_ran) {
            let log = sshd.log();
            let logins = log.matches("Accepted publickey for").count() as u64;
            // Adit leaves before the login where it does not trust the host key.
            let left_before =
                |line: &&str| line.starts_with("Connection closed by") && line.ends_with("[preauth]");
            let untrusted = log.lines().filter(left_before).count() as u64;
            assert_eq!(
                logins + untrusted - others.logins.get(),
                emulator.counters().tunnels_opened - others.tunnels.get(),
                "each tunnel is one login at the real sshd"
            );
        }
        application.stop().await;
        wait::until_true("every tunnel is closed", async || {
            emulator.counters().tunnels_open == 0
        })
        .await;
        wait::until_true("every session has ended", async || {
            emulator.counters().sessions_open == 0
        })
        .await;
        emulator.stop().await;
        drop(sshd);
        std::mem::forget(unfinished);
        store
    }
}

/// Whether no supervisor has waiters or leases.
fn is_idle(tunnels: &Value) -> bool {
    tunnels["data"].as_array().unwrap().iter().all(|instance| {
        let leases = instance["tunnels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tunnel| tunnel["refcount"].as_u64().unwrap());
        instance["waiters"] == 0 && leases.sum::<u64>() == 0
    })
}

fn settings(store_url: String) -> Settings {
    let mut settings = Settings::default();
    settings.http.listen = ([127, 0, 0, 1], 0).into();
    settings.admin.tokens = vec![SecretString::from(ADMIN_TOKEN)];
    settings.store.url = SecretString::from(store_url);
    settings.aws.region = REGION.to_owned();
    settings.aws.endpoint_id = Some(ENDPOINT_ID.to_owned());
    settings.aws.endpoint_dns_name = Some(ENDPOINT_DNS_NAME.to_owned());
    settings
}

fn emulator_settings(sshd: Option<&Sshd>, fleet: Fleet) -> adit_emulator::Settings {
    let mut settings =
        adit_emulator::Settings::new(Credentials::new("AKIDEXAMPLE", "the secret of the tests"));
    let instances = (0..fleet.instances).map(|number| {
        let backend = match sshd {
            Some(sshd) => InstanceBackend::External {
                address: sshd.address(),
                authorized_keys_dir: sshd.authorized_keys_dir(number),
            },
            None => InstanceBackend::InProcess {
                host_key: HostKey::generate(),
            },
        };
        Instance {
            id: seed::instance_id(number),
            private_ip_address: seed::address(number).to_string(),
            backend,
            ..Instance::default()
        }
    });
    settings.instances = instances.collect();
    settings.max_sessions = fleet.max_sessions;
    settings
}

async fn prepare_store(settings: &Settings, os_user: &str, fleet: Fleet) -> Seed {
    store::migrate(settings.store.url.expose_secret()).await.unwrap();
    let store = open_store(settings).await.unwrap();
    let seed = Seed::write(
        store.as_ref(),
        os_user,
        fleet.instances,
        fleet.addresses_are_known,
    )
    .await;
    store.close().await;
    seed
}
