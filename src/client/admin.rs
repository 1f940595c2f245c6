//! The calls of `/admin`. All need an admin token.

use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;

use super::{ApiClient, ClientError, checked, read_json};
use crate::http::admin_wire::{
    ForgetAnswer, HostKeyListing, HostKeyPin, PinAnswer, PinRequest, TunnelListing,
};

/// Host key pins asked for at a time: the most that the service gives.
const PAGE: &str = "1000";

impl ApiClient {
    /// What the service knows of its tunnels.
    ///
    /// # Errors
    /// [`ClientError::Problem`] or [`ClientError::Transport`].
    pub async fn tunnels(&self) -> Result<TunnelListing, ClientError> {
        answered(self.admin(Method::GET, &["tunnels"], &[])).await
    }

    /// Lets no new exec onto an instance's present tunnels, in every region unless one is named; says how they stand.
    ///
    /// # Errors
    /// [`ClientError::Problem`], `not_found` for an instance that the service was never asked for; or
    /// [`ClientError::Transport`].
    pub async fn drain_tunnels(
        &self,
        instance_id: &str,
        region: Option<&str>,
    ) -> Result<TunnelListing, ClientError> {
        let path = ["tunnels", instance_id, "drain"];
        answered(self.admin(Method::POST, &path, &[("region", region)])).await
    }

    /// The same, and the execs there end as cancelled.
    ///
    /// # Errors
    /// As [`Self::drain_tunnels`].
    pub async fn evict_tunnels(
        &self,
        instance_id: &str,
        region: Option<&str>,
    ) -> Result<TunnelListing, ClientError> {
        let path = ["tunnels", instance_id];
        answered(self.admin(Method::DELETE, &path, &[("region", region)])).await
    }

    /// All host key pins, of one region when it is named; page after page.
    ///
    /// # Errors
    /// [`ClientError::Problem`] or [`ClientError::Transport`].
    pub async fn host_keys(&self, region: Option<&str>) -> Result<Vec<HostKeyPin>, ClientError> {
        let (mut pins, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let query = [
                ("region", region),
                ("cursor", cursor.as_deref()),
                ("limit", Some(PAGE)),
            ];
            let page: HostKeyListing = answered(self.admin(Method::GET, &["hostkeys"], &query)).await?;
            pins.extend(page.data);
            match page.next_cursor {
                // A cursor that stays would never end.
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                Some(_) | None => return Ok(pins),
            }
        }
    }

    /// The pin of one instance, in the service's default region unless one is named.
    ///
    /// # Errors
    /// [`ClientError::Problem`], `not_found` when there is none; or [`ClientError::Transport`].
    pub async fn host_key(&self, instance_id: &str, region: Option<&str>) -> Result<HostKeyPin, ClientError> {
        answered(self.of_host_key(Method::GET, instance_id, region)).await
    }

    /// Pins a host key, whatever is pinned there.
    ///
    /// # Errors
    /// [`ClientError::Problem`] or [`ClientError::Transport`].
    pub async fn pin_host_key(
        &self,
        instance_id: &str,
        region: Option<&str>,
        key: String,
    ) -> Result<PinAnswer, ClientError> {
        let request = self.of_host_key(Method::PUT, instance_id, region);
        answered(request.json(&PinRequest { key })).await
    }

    /// Forgets a host key: the next login pins anew.
    ///
    /// # Errors
    /// As [`Self::host_key`].
    pub async fn forget_host_key(
        &self,
        instance_id: &str,
        region: Option<&str>,
    ) -> Result<ForgetAnswer, ClientError> {
        answered(self.of_host_key(Method::DELETE, instance_id, region)).await
    }

    /// Parameters without a value are left out.
    fn admin(&self, method: Method, path: &[&str], query: &[(&str, Option<&str>)]) -> RequestBuilder {
        let segments: Vec<&str> = ["admin"].into_iter().chain(path.iter().copied()).collect();
        let mut url = self.url(&segments);
        for (name, value) in query {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        self.http.request(method, url)
    }

    fn of_host_key(&self, method: Method, instance_id: &str, region: Option<&str>) -> RequestBuilder {
        self.admin(method, &["hostkeys", instance_id], &[("region", region)])
    }
}

async fn answered<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
    let response = request.send().await.map_err(ClientError::unsent)?;
    read_json(checked(response).await?).await
}
