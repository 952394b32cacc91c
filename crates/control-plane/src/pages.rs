//! What a browser is shown. The client prints `View run at http://…/apps/ap-…`, and whoever opens that should not meet an
//! empty 404.
//!
//! There are no pages of apps yet: this one says what the address is and which commands tell more. Anybody may ask for it,
//! without a token, so it repeats nothing but an id that is well-formed, and does not say whether there is such an app.

use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use types::ids::AppId;

/// Nothing is loaded, nothing is run, nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

pub fn router() -> Router {
    Router::new()
        .route("/", get(|| async { page(None) }))
        .route("/apps", get(|| async { page(None) }))
        .route("/apps/", get(|| async { page(None) }))
        .route("/apps/{*rest}", get(|Path(rest): Path<String>| async move { page(app_in(&rest).as_ref()) }))
}

/// The first part of the path that is an app's id.
fn app_in(path: &str) -> Option<AppId> {
    path.split('/').find_map(AppId::parse)
}

fn page(app: Option<&AppId>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text(app)).into_response()
}

fn text(app: Option<&AppId>) -> String {
    let (title, logs) = match app {
        Some(app) => {
            let app = escaped(app.as_str());
            (format!("App {app}"), format!("<dt><code>modal app logs {app}</code><dd>what it has printed\n"))
        }
        None => ("Dorian".to_owned(), String::new()),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>body {{ font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }}</style>\n\
         <h1>{title}</h1>\n\
         <p>This is the address of a Dorian server, which clients of Modal use. It has no pages of apps yet; these commands \
         tell more:\n<dl>\n{logs}\
         <dt><code>modal app list</code><dd>the apps that run or are deployed\n\
         <dt><code>modal container list</code><dd>the containers that run\n\
         <dt><code>dorian env</code><dd>how a client on the server's machine is pointed here\n</dl>\n"
    )
}

fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;

    async fn got(path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_address_that_a_client_prints_leads_to_the_commands_that_tell_more() {
        let (status, body) = got("/apps/ap-0123456789abcdefABCDEF").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("modal app logs ap-0123456789abcdefABCDEF") && body.contains("modal app list"), "{body}");
        let (status, body) = got("/").await;
        assert!(status == StatusCode::OK && body.contains("modal app list") && !body.contains("app logs"), "{body}");
    }

    #[tokio::test]
    async fn nothing_but_a_well_formed_id_is_repeated() {
        for path in
            ["/apps/ap-%3Cscript%3E", "/apps/%22onload=x", "/apps/ap-/../../etc", "/apps/fu-0123456789abcdefABCDEF"]
        {
            let (status, body) = got(path).await;
            assert_eq!(status, StatusCode::OK);
            assert!(
                !body.contains("app logs") && !body.contains("script") && !body.contains("onload"),
                "{path}: {body}"
            );
        }
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        assert_eq!(got("/other").await.0, StatusCode::NOT_FOUND);
    }
}
