//! The tier gate.

use crate::store::Workspace;

/// Whether execs may run on the machine behind this workspace: tiers 3 (privileged) and 4 (full host) only. A tier
/// that does not exist is refused as well.
#[must_use]
pub fn may_exec_on_host(workspace: &Workspace) -> bool {
    matches!(workspace.tier, 3 | 4)
}

#[cfg(test)]
mod tests {
    use super::may_exec_on_host;
    use crate::http::test_support::workspace;

    #[test]
    fn only_tiers_three_and_four_pass() {
        for (tier, allowed) in [
            (-1, false),
            (0, false),
            (1, false),
            (2, false),
            (3, true),
            (4, true),
            (5, false),
        ] {
            let workspace = crate::store::Workspace { tier, ..workspace() };
            assert_eq!(may_exec_on_host(&workspace), allowed, "tier {tier}");
        }
    }
}
