//! A streamed exec that is still under way: what has come of it, the rest of it, or no more of it.

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::support::TestApp;
use crate::support::api::Answer;

/// An answer whose head, and some output, has arrived. Dropping it closes its connection.
pub(crate) struct Streaming {
    answer: reqwest::Response,
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Streaming {
    /// Runs `body` in the default workspace and returns as soon as the text `awaited` has come.
    pub(crate) async fn begin(app: &TestApp, body: &Value, awaited: &str) -> Self {
        let workspace = app.seed.workspace();
        let answer = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .post(format!("{}/workspaces/{}/exec", app.api.base(), workspace.id))
            .bearer_auth(&workspace.token)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        let mut streaming = Self {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            answer,
            body: Vec::new(),
        };
        while !String::from_utf8_lossy(&streaming.body).contains(awaited) {
            let chunk = streaming.answer.chunk().await.unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("it ended without {awaited:?}: {:?}", streaming.body));
            streaming.body.extend_from_slice(&chunk);
        }
        streaming
    }

    /// Id of the exec.
    pub(crate) fn exec_id(&self) -> &str {
        self.headers["adit-exec-id"].to_str().unwrap()
    }

    /// The whole answer.
    pub(crate) async fn rest(mut self) -> Answer {
        while let Some(chunk) = self.answer.chunk().await.unwrap() {
            self.body.extend_from_slice(&chunk);
        }
        Answer {
            status: self.status,
            headers: self.headers,
            body: self.body.into(),
        }
    }
}
