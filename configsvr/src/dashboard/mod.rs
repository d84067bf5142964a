//! The dashboard: one page that reads the API every two seconds and shows the whole cluster. It changes nothing. The page
//! itself says nothing about a cluster, so it needs no token; whoever looks at it gives one, which stays in the tab.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;

/// Nothing from elsewhere, no inline script, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGES: [(&str, &str, &str); 3] = [
    ("/dashboard", "text/html; charset=utf-8", include_str!("page.html")),
    ("/dashboard/page.js", "text/javascript; charset=utf-8", include_str!("page.js")),
    ("/dashboard/page.css", "text/css; charset=utf-8", include_str!("page.css")),
];

/// `/` leads to it.
pub fn router() -> Router {
    let router = Router::new().route("/", get(|| async { Redirect::temporary("/dashboard") }));
    PAGES.into_iter().fold(router, |router, (path, kind, text)| router.route(path, get(move || page(kind, text))))
}

async fn page(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ];
    (headers, text)
}

#[cfg(test)]
mod tests {
    /// A path that the page asks for and that is not in the API's document would show an empty table for ever.
    #[test]
    fn every_path_it_asks_for_exists() {
        let document: serde_json::Value = serde_json::from_str(&crate::http::document()).expect("JSON");
        let script = include_str!("page.js");
        let asked: Vec<&str> = script.split('"').filter(|word| word.starts_with("/api/")).collect();
        assert!(asked.len() >= 5, "{asked:?}");
        for path in asked {
            let path = path.split('?').next().unwrap_or(path);
            assert!(document["paths"][path]["get"].is_object(), "{path}");
        }
    }
}
