//! The HTTP layer: who may ask, what is asked, and in which form the answer goes out.
//!
//! It owns authentication, validation, framing and status codes. It must not know tunnels, build a command line or
//! write an audit row: it hands an [`adit_actors::exec::ExecSpec`] to the engine and turns what comes back into bytes.

mod access_log;
mod admin;
pub mod admin_wire;
mod connection;
mod credentials;
mod exec;
mod health;
mod host_access;
mod options;
mod paging;
mod peer;
mod problem;
mod read_body;
mod request_ids;
mod respond;
mod routes;
mod server;
mod tenant;
mod tenant_guard;
mod tls;
mod token_uses;
pub mod wire;

pub(crate) use exec::json_form;
pub use host_access::may_exec_on_host;
pub use options::{DEFAULT_ORG_HEADER, HttpOptions, HttpState, Surface};
pub use problem::ProblemCode;
pub use routes::{Access, ROUTES, Route};
pub use server::start;
pub use tls::{TlsIdentity, TlsIdentityError};
pub use token_uses::TokenUseKeeper;

#[cfg(test)]
mod service_tests;
#[cfg(test)]
pub(crate) mod test_support;
