//! The whole service in this process, with an emulator in front of an instance of the test's choice.

use std::path::{Path, PathBuf};

use adit::application::target_defaults;
use adit::settings::Settings;
use adit::store;
use adit_emulator::{Credentials, Emulator, Instance, InstanceBackend};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tempfile::TempDir;

use super::api::Api;
use super::rows::{self, Row};
use super::seed::{ADDRESS, INSTANCE, Seed};
use super::sshd::Sshd;
use super::{launch, logs, processes, wait};

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
}

impl Backend {
    fn os_user(self) -> &'static str {
        match self {
            Self::InProcess => "ubuntu",
            Self::OpenSshBash => "adit-bash",
            Self::OpenSshDash => "adit-dash",
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
    pub(crate) emulator: Emulator,
    application: launch::Running,
    directory: TempDir,
    unfinished: Unfinished,
    // Last, so that it outlives what may still be connected to it.
    sshd: Option<Sshd>,
}

/// Fails a test that forgets [`TestApp::finish`], unless it fails already.
struct Unfinished;

impl Drop for Unfinished {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking(),
            "a test must end its service with `finish`, which checks for leaks"
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
        logs::capture();
        let sshd = match backend {
            Backend::InProcess => None,
            Backend::OpenSshBash | Backend::OpenSshDash => Some(Sshd::start().await),
        };
        let directory = tempfile::Builder::new().prefix("adit-test-").tempdir().unwrap();
        let mut setup = Setup {
            settings: settings(&store_path(directory.path())),
            emulator: emulator_settings(sshd.as_ref()),
        };
        change(&mut setup);
        let credentials = setup.emulator.credentials.clone();
        let emulator = Emulator::start(setup.emulator).await.unwrap();
        setup.settings.aws.key_push_endpoint_override = Some(emulator.http_url());
        setup.settings.aws.tunnel_endpoint_override = Some(format!("ws://{}", emulator.address()));

        let seed = prepare_store(&setup.settings, backend.os_user()).await;
        let application = launch::start(setup.settings, &credentials).await;
        let api = Api::new(format!("http://{}", application.address()));
        Self {
            seed,
            api,
            emulator,
            application,
            directory,
            unfinished: Unfinished,
            sshd,
        }
    }

    /// Runs `body` in the default workspace and waits for the whole of it.
    pub(crate) async fn run(&self, body: Value) -> super::api::Answer {
        let workspace = self.seed.workspace();
        self.api.exec_json(workspace.id, &workspace.token, &body).await
    }

    /// Runs `body` in the default workspace as a stream.
    pub(crate) async fn stream(&self, body: Value) -> super::api::Answer {
        let workspace = self.seed.workspace();
        self.api.exec_stream(workspace.id, &workspace.token, &body).await
    }

    /// All audit rows, oldest first.
    pub(crate) async fn rows(&self) -> Vec<Row> {
        rows::all(&store_path(self.directory.path())).await
    }

    /// The only audit row.
    pub(crate) async fn only_row(&self) -> Row {
        let mut rows = self.rows().await;
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows.remove(0)
    }

    /// Every byte of the store's files, its journal included.
    pub(crate) fn store_bytes(&self) -> Vec<u8> {
        std::fs::read_dir(self.directory.path())
            .unwrap()
            .flat_map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect()
    }

    /// What the real sshd behind the instance has logged so far.
    pub(crate) fn sshd_log(&self) -> String {
        self.sshd.as_ref().expect("a backend with a real sshd").log()
    }

    /// `GET /admin/tunnels`.
    pub(crate) async fn tunnels(&self) -> Value {
        let answer = self.api.get("/admin/tunnels", Some(ADMIN_TOKEN)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// A call of the admin API.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> super::api::Answer {
        self.api.call(method, path, Some(ADMIN_TOKEN), body).await
    }

    /// Ends the service in order and checks that no lease, row, tunnel or process of it is left.
    pub(crate) async fn finish(self) {
        wait::until_true("no exec holds a lease or waits for one", async || {
            is_idle(&self.tunnels().await)
        })
        .await;
        let rows = self.rows().await;
        let running: Vec<&Row> = rows.iter().filter(|row| row.status == "running").collect();
        assert!(running.is_empty(), "rows without an end: {running:#?}");
        for row in &rows {
            let variable = format!("ADIT_EXEC_ID={}", row.id);
            wait::until_true("every process of an exec has ended with it", async || {
                processes::with_variable(&variable).is_empty()
            })
            .await;
        }
        let Self {
            application,
            emulator,
            unfinished,
            sshd,
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
                logins + untrusted,
                emulator.counters().tunnels_opened,
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

fn store_path(directory: &Path) -> PathBuf {
    directory.join("adit.db")
}

fn settings(store: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.http.listen = ([127, 0, 0, 1], 0).into();
    settings.admin.tokens = vec![SecretString::from(ADMIN_TOKEN)];
    settings.store.url = SecretString::from(format!("sqlite://{}", store.display()));
    settings.aws.region = "us-east-1".to_owned();
    settings.aws.endpoint_id = Some("eice-0123456789abcdef0".to_owned());
    settings.aws.endpoint_dns_name = Some("eice-0123456789abcdef0.example".to_owned());
    settings
}

fn emulator_settings(sshd: Option<&Sshd>) -> adit_emulator::Settings {
    let mut settings =
        adit_emulator::Settings::new(Credentials::new("AKIDEXAMPLE", "the secret of the tests"));
    let mut instance = Instance {
        id: INSTANCE.to_owned(),
        private_ip_address: ADDRESS.to_owned(),
        ..Instance::default()
    };
    if let Some(sshd) = sshd {
        instance.backend = InstanceBackend::External {
            address: sshd.address(),
            authorized_keys_dir: sshd.authorized_keys_dir(),
        };
    }
    settings.instances = vec![instance];
    settings
}

async fn prepare_store(settings: &Settings, os_user: &str) -> Seed {
    let url = settings.store.url.expose_secret();
    store::migrate(url).await.unwrap();
    let store = store::connect(url, target_defaults(settings)).await.unwrap();
    let seed = Seed::write(store.as_ref(), os_user).await;
    store.close().await;
    seed
}
