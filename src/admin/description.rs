//! `GET /v1/openapi.json`: what the API is, for programs.

use axum::http::Uri;
use axum::response::Response;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::request::Query;
use super::{Problem, json};

/// The OpenAPI description.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Turnway admin API",
        description = "Who uses the relay, how much, and how to end it. Bytes are payload bytes. \
            User names are bytes: percent-encoded in paths and queries; in answers text, or \
            percent-encoded where they are not UTF-8, as the field beside them says.",
    ),
    paths(
        super::status::status,
        super::users::users,
        super::users::user,
        super::sessions::end_all,
        super::sessions::sessions,
        super::sessions::session,
        super::sessions::end,
        description,
    ),
    components(schemas(Problem)),
    modifiers(&Authentication),
    security((), ("token" = [])),
    tags(
        (name = "server", description = "The server as a whole"),
        (name = "users", description = "Users with allocations"),
        (name = "sessions", description = "Allocations"),
    ),
)]
pub(super) struct Description;

struct Authentication;

impl Modify for Authentication {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let mut token = Http::new(HttpAuthScheme::Bearer);
        token.description = Some("The token of [admin]. A Unix socket needs none.".to_owned());
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(token));
    }
}

/// This description
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "server",
    responses((status = OK, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(super) async fn description(uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    Ok(json(&Description::openapi()))
}
