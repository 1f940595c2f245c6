//! The service itself: started on this thread, stopped as a signal would stop it.

use std::net::SocketAddr;

use adit::application::{Application, RunError};
use adit::settings::Settings;
use adit_emulator::Credentials;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A service that runs.
pub(crate) struct Running {
    url: String,
    admin_address: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), RunError>>,
}

/// Builds and starts the service.
pub(crate) async fn start(settings: Settings, credentials: &Credentials) -> Running {
    let credentials = aws_credentials(credentials);
    let application = Application::build(settings, Some(credentials)).await.unwrap();
    let (url, admin_address) = (application.url(), application.admin_address());
    let (stop, stopped) = oneshot::channel();
    let run = application.run(async {
        stopped.await.ok(); // a test that fails drops the sender, which means the same
    });
    Running {
        url,
        admin_address,
        stop,
        ended: actix_rt::spawn(run),
    }
}

/// The emulator's credentials as the AWS SDK has them.
pub(crate) fn aws_credentials(credentials: &Credentials) -> aws_credential_types::Credentials {
    aws_credential_types::Credentials::new(
        &credentials.access_key_id,
        &credentials.secret_access_key,
        credentials.session_token.clone(),
        None,
        "tests",
    )
}

impl Running {
    /// The URL that it answers at.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Where its listener for `/admin` is, when it has one of its own.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Ends it in order, and fails when it could not write all that it had to.
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the service has not ended by itself");
        self.ended.await.unwrap().unwrap();
    }
}
