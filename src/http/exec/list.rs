//! `GET /workspaces/{workspace_id}/exec`: a workspace's execs, newest first; and what it shares with the operators' list of all.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use adit_actors::audit::RowStatus;
use adit_actors::engine::Engine;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

use super::stored::{self, ExecObject};
use crate::http::options::HttpState;
use crate::http::paging::{self, PageLength};
use crate::http::problem::Problem;
use crate::http::{respond, tenant};
use crate::store::{ExecQuery, Store, StoredExec};

/// Execs on a page unless asked otherwise, and at most; one is about a kilobyte.
const PAGE: PageLength = PageLength {
    default: 50,
    max: 200,
};

/// What both lists may be asked for, and a workspace's list for nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filters {
    pub(crate) limit: Option<String>,
    pub(crate) cursor: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) since: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listing {
    data: Vec<ExecObject>,
    next_cursor: Option<String>,
}

/// The handler. As when one is looked at, the workspace's tier and status do not matter.
pub(crate) async fn list(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    match listing(&request, &state).await {
        Ok(listing) => respond::json(&listing),
        Err(problem) => problem.into_response(),
    }
}

async fn listing(request: &HttpRequest, state: &HttpState) -> Result<Listing, Problem> {
    let tenant = tenant::admit(request, state).await?;
    let query = paging::query::<Filters>(request)?.of(Some(tenant.workspace.id))?;
    let (rows, next_cursor) = page(state.store.as_ref(), query).await?;
    let data = as_they_stand(&state.engine, &rows).await;
    Ok(Listing { data, next_cursor })
}

/// A page of rows and the cursor of the next one.
pub(crate) async fn page(
    store: &dyn Store,
    query: ExecQuery,
) -> Result<(Vec<StoredExec>, Option<String>), Problem> {
    let limit = query.limit;
    let query = ExecQuery {
        // One more shows whether there is another page.
        limit: limit + 1,
        ..query
    };
    let mut rows = store
        .list_execs(&query)
        .await
        .map_err(|error| Problem::store_unavailable(&error, "execs can't be listed"))?;
    let last = paging::cut_to_page(&mut rows, limit);
    let next_cursor = last.map(|row| cursor_after(row.created_at, row.id));
    Ok((rows, next_cursor))
}

/// The execs of a page's rows, those that run in this process as they stand now.
pub(crate) async fn as_they_stand(engine: &Engine, rows: &[StoredExec]) -> Vec<ExecObject> {
    join_all(rows.iter().map(|row| stored::as_it_stands(engine, row))).await
}

// === What is asked for ===

impl Filters {
    /// The query of one workspace, or of all.
    ///
    /// # Errors
    /// `invalid_request`, with the parameter.
    pub(crate) fn of(self, workspace_id: Option<Uuid>) -> Result<ExecQuery, Problem> {
        Ok(ExecQuery {
            workspace_id,
            status: self.status.as_deref().map(status).transpose()?,
            since: self.since.as_deref().map(since).transpose()?,
            after: self.cursor.as_deref().map(after_cursor).transpose()?,
            limit: PAGE.asked_for(self.limit.as_deref())?,
        })
    }
}

fn status(text: &str) -> Result<RowStatus, Problem> {
    RowStatus::of(text)
        .ok_or_else(|| Problem::invalid("`status`: must be `running`, `ok`, `error` or `timeout`"))
}

fn since(text: &str) -> Result<OffsetDateTime, Problem> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .filter(|time| is_storable(*time))
        .ok_or_else(|| {
            Problem::invalid(
                "`since`: must be a time as in `2026-01-31T12:00:00Z` (RFC 3339; a `+` is written `%2B`)",
            )
        })
}

/// Stores keep times whose year has four digits.
fn is_storable(time: OffsetDateTime) -> bool {
    (0..=9_999).contains(&time.year())
}

/// Microseconds since 1970 and the id: what the order goes by, exactly.
fn cursor_after(created_at: OffsetDateTime, id: Uuid) -> String {
    let microseconds = created_at.unix_timestamp_nanos().div_euclid(1_000);
    paging::cursor(&[microseconds.to_be_bytes(), id.into_bytes()].concat())
}

fn after_cursor(cursor: &str) -> Result<(OffsetDateTime, Uuid), Problem> {
    paging::place(cursor, |place| {
        let (microseconds, id) = place.split_first_chunk()?;
        let nanoseconds = i128::from_be_bytes(*microseconds).checked_mul(1_000)?;
        let created_at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
        let id = Uuid::from_slice(id).ok()?;
        is_storable(created_at).then_some((created_at, id))
    })
}

#[cfg(test)]
mod tests {
    use adit_actors::audit::RowStatus;
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::macros::datetime;
    use uuid::Uuid;

    use super::{Filters, after_cursor, cursor_after};
    use crate::http::paging;

    fn detail(filters: Filters) -> Option<String> {
        let (_, body) = filters.of(None).err()?.into_parts();
        Some(String::from_utf8(body).unwrap())
    }

    #[test]
    fn filters_are_read_or_refused_by_name() {
        let filters = |status: &str, since: &str| Filters {
            status: Some(status.to_owned()),
            since: Some(since.to_owned()),
            ..Filters::default()
        };
        let query = filters("timeout", "2026-01-02T03:04:05.5+02:00")
            .of(None)
            .unwrap();
        assert_eq!(query.status, Some(RowStatus::Timeout));
        assert_eq!(query.since, Some(datetime!(2026-01-02 01:04:05.5 UTC)));
        assert_eq!((query.limit, query.after), (50, None));
        let good = "2026-01-02T03:04:05Z";
        for (status, since, parameter) in [
            ("", good, "`status`"),
            ("Running", good, "`status`"),
            ("ended", good, "`status`"),
            ("ok", "", "`since`"),
            ("ok", "yesterday", "`since`"),
            ("ok", "2026-01-02", "`since`"),
            ("ok", "2026-01-02T03:04:05", "`since`"),
            ("ok", "2026-01-02T03:04:05 02:00", "`since`"),
            ("ok", "1767323045", "`since`"),
            ("ok", "0000-01-01T00:00:00+23:59", "`since`"),
            ("ok", "9999-12-31T23:59:59-23:59", "`since`"),
        ] {
            let detail = detail(filters(status, since)).unwrap();
            assert!(detail.contains(parameter), "{status:?} {since:?}: {detail}");
        }
    }

    #[test]
    fn what_no_page_gave_is_no_cursor() {
        let good = cursor_after(OffsetDateTime::UNIX_EPOCH, Uuid::nil());
        assert!(after_cursor(&good).is_ok());
        let mut far = [0xff; 32];
        far[0] = 0x7f;
        let before_year_0 = cursor_after(datetime!(-0001-01-01 0:00 UTC), Uuid::nil());
        for cursor in [
            "",
            "!",
            "aGk",
            good.trim_start_matches('A'),
            &format!("{good}AAAA"),
            &format!("{good}="),
            &paging::cursor(&far),
            &before_year_0,
        ] {
            assert!(after_cursor(cursor).is_err(), "{cursor:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_back(
            microseconds in -62_167_219_200_000_000_i64..253_402_300_800_000_000,
            id in any::<u128>(),
        ) {
            let created_at =
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1_000).unwrap();
            let id = Uuid::from_u128(id);
            let cursor = cursor_after(created_at, id);
            prop_assert_eq!(after_cursor(&cursor).unwrap(), (created_at, id));
        }

        #[test]
        fn garbage_breaks_nothing(bytes in prop::collection::vec(any::<u8>(), 0..48), text in ".{0,48}") {
            after_cursor(&paging::cursor(&bytes)).ok();
            after_cursor(&text).ok();
        }
    }
}
