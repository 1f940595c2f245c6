//! What whole-service tests stand on: the service in this process, a real sshd, and eyes for what they leave behind.

pub(crate) mod api;
pub(crate) mod app;
pub(crate) mod certificate;
mod launch;
pub(crate) mod logs;
pub(crate) mod postgres;
pub(crate) mod processes;
pub(crate) mod rows;
mod seed;
mod sshd;
pub(crate) mod store;
pub(crate) mod wait;

pub(crate) use app::{Backend, Fleet, Setup, TestApp};
pub(crate) use seed::INSTANCE;
pub(crate) use store::TestStore;
