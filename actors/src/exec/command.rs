//! The one string that SSH carries to the instance's login shell, and its quoting.

use super::request::{ExecRequest, InvalidRequest};

pub(crate) fn check_length(_request: &ExecRequest) -> Result<(), InvalidRequest> {
    Ok(())
}
