//! Every route of the API, in one table, and the 404 for all else.

use actix_web::web::{self, Data, ServiceConfig};

use super::options::{HttpState, Surface};
use super::{admin, exec, health, respond};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A workspace's or an org's token; behind the tenant guard.
    Tenant,
    /// An admin token; outside the tenant guard.
    Admin,
    /// Everyone; outside the tenant guard.
    Anyone,
}

/// One route of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    handler: Handler,
}

impl Route {
    /// Whether a listener with this surface serves the route.
    #[must_use]
    pub fn is_on(&self, surface: Surface) -> bool {
        match self.access {
            Access::Tenant => surface != Surface::Admin,
            Access::Admin => surface != Surface::Public,
            Access::Anyone => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handler {
    CreateExec,
    ListExecs,
    ShowExec,
    CancelExec,
    ListAllExecs,
    ShowAnyExec,
    ListTunnels,
    ShowTunnels,
    DrainTunnels,
    EvictTunnels,
    ListHostKeys,
    ShowHostKey,
    PinHostKey,
    ForgetHostKey,
    Alive,
    Ready,
}

/// The routes. A route that is not here does not exist: nothing else is registered.
pub const ROUTES: [Route; 16] = [
    Route {
        method: "POST",
        path: "/workspaces/{workspace_id}/exec",
        access: Access::Tenant,
        handler: Handler::CreateExec,
    },
    Route {
        method: "GET",
        path: "/workspaces/{workspace_id}/exec",
        access: Access::Tenant,
        handler: Handler::ListExecs,
    },
    Route {
        method: "GET",
        path: "/workspaces/{workspace_id}/exec/{exec_id}",
        access: Access::Tenant,
        handler: Handler::ShowExec,
    },
    Route {
        method: "DELETE",
        path: "/workspaces/{workspace_id}/exec/{exec_id}",
        access: Access::Tenant,
        handler: Handler::CancelExec,
    },
    Route {
        method: "GET",
        path: "/admin/execs",
        access: Access::Admin,
        handler: Handler::ListAllExecs,
    },
    Route {
        method: "GET",
        path: "/admin/execs/{exec_id}",
        access: Access::Admin,
        handler: Handler::ShowAnyExec,
    },
    Route {
        method: "GET",
        path: "/admin/tunnels",
        access: Access::Admin,
        handler: Handler::ListTunnels,
    },
    Route {
        method: "GET",
        path: "/admin/tunnels/{instance_id}",
        access: Access::Admin,
        handler: Handler::ShowTunnels,
    },
    Route {
        method: "POST",
        path: "/admin/tunnels/{instance_id}/drain",
        access: Access::Admin,
        handler: Handler::DrainTunnels,
    },
    Route {
        method: "DELETE",
        path: "/admin/tunnels/{instance_id}",
        access: Access::Admin,
        handler: Handler::EvictTunnels,
    },
    Route {
        method: "GET",
        path: "/admin/hostkeys",
        access: Access::Admin,
        handler: Handler::ListHostKeys,
    },
    Route {
        method: "GET",
        path: "/admin/hostkeys/{instance_id}",
        access: Access::Admin,
        handler: Handler::ShowHostKey,
    },
    Route {
        method: "PUT",
        path: "/admin/hostkeys/{instance_id}",
        access: Access::Admin,
        handler: Handler::PinHostKey,
    },
    Route {
        method: "DELETE",
        path: "/admin/hostkeys/{instance_id}",
        access: Access::Admin,
        handler: Handler::ForgetHostKey,
    },
    Route {
        method: "GET",
        path: "/healthz",
        access: Access::Anyone,
        handler: Handler::Alive,
    },
    Route {
        method: "GET",
        path: "/readyz",
        access: Access::Anyone,
        handler: Handler::Ready,
    },
];

/// Registers the routes of a surface. Each method of a path that has no route falls through to the 404 as well: a 405
/// would tell an unknown caller what is there.
pub(crate) fn configure(config: &mut ServiceConfig, state: HttpState, surface: Surface) {
    config.app_data(Data::new(state));
    for route in ROUTES.iter().filter(|route| route.is_on(surface)) {
        let with_method = match route.method {
            "POST" => web::post(),
            "PUT" => web::put(),
            "DELETE" => web::delete(),
            _ => web::get(),
        };
        let registered = match route.handler {
            Handler::CreateExec => with_method.to(exec::create),
            Handler::ListExecs => with_method.to(exec::list::list),
            Handler::ShowExec => with_method.to(exec::one::show),
            Handler::CancelExec => with_method.to(exec::one::cancel),
            Handler::ListAllExecs => with_method.to(admin::execs::list),
            Handler::ShowAnyExec => with_method.to(admin::execs::show),
            Handler::ListTunnels => with_method.to(admin::tunnels::list),
            Handler::ShowTunnels => with_method.to(admin::tunnels::show),
            Handler::DrainTunnels => with_method.to(admin::tunnels::drain),
            Handler::EvictTunnels => with_method.to(admin::tunnels::evict),
            Handler::ListHostKeys => with_method.to(admin::host_keys::list),
            Handler::ShowHostKey => with_method.to(admin::host_keys::show),
            Handler::PinHostKey => with_method.to(admin::host_keys::pin),
            Handler::ForgetHostKey => with_method.to(admin::host_keys::forget),
            Handler::Alive => with_method.to(health::alive),
            Handler::Ready => with_method.to(health::ready),
        };
        config.route(route.path, registered);
    }
    config.default_service(web::to(async || respond::not_found()));
}
