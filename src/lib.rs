//! Adit, the service: settings, HTTP, SQL store, AWS clients and command line around the core in `adit-actors`.

pub mod application;
pub mod aws;
pub mod cli;
pub mod client;
pub mod http;
pub mod pem_files;
pub mod settings;
pub mod store;
pub mod tokens;
