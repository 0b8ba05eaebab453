//! The OpenAPI description, fitted to what is served.
//!
//! In: `openapi.json` as it is written, which describes every server, the served index and the limits. Out: the description
//! of this server: the dimension of queries, the limits, and only the parameters that the index has.

use serde_json::{Value, json};

use super::Limits;
use super::served::Served;
use crate::search_types::IndexKind;

/// As it is written.
pub(crate) const WRITTEN: &str = include_str!("openapi.json");

/// The description of a server of `served`.
pub(crate) fn describe(served: &Served, limits: &Limits) -> Value {
    let mut described: Value = serde_json::from_str(WRITTEN).unwrap_or_default();
    let foreign: &[&str] = match served.searcher.kind() {
        IndexKind::Vamana => &["nprobe", "rerank"],
        IndexKind::IvfPq => &["search_list", "navigate"],
    };
    let mut recalls: Vec<Value> = served.tuned.iter().map(|tuned| json!(tuned.recall)).collect();
    recalls.dedup();
    let is_foreign = |name: &str| foreign.contains(&name) || (name == "recall" && recalls.is_empty());
    let most = |name: &str| match name {
        "k" => Some(limits.k),
        "search_list" | "nprobe" | "rerank" => Some(limits.list),
        _ => None,
    };
    let fit = |name: &str, schema: &mut Value, nullable: bool| {
        if let Some(most) = most(name) {
            schema["maximum"] = json!(most);
        }
        if name == "recall" {
            let null = nullable.then_some(Value::Null);
            schema["enum"] = recalls.iter().cloned().chain(null).collect();
        }
    };
    if let Some(parameters) = described.pointer_mut("/paths/~1v1~1search/post/parameters").and_then(Value::as_array_mut)
    {
        parameters.retain(|parameter| !parameter["name"].as_str().is_some_and(is_foreign));
        for parameter in parameters {
            let name = parameter["name"].as_str().unwrap_or_default().to_string();
            fit(&name, &mut parameter["schema"], false);
        }
    }
    let fields = described.pointer_mut("/components/schemas/SearchRequest/properties").and_then(Value::as_object_mut);
    if let Some(fields) = fields {
        fields.retain(|name, _| !is_foreign(name));
        fields.iter_mut().for_each(|(name, schema)| fit(name, schema, true));
        if let Some(queries) = fields.get_mut("queries") {
            queries["maxItems"] = json!(limits.queries);
            queries["items"]["minItems"] = json!(served.searcher.dim());
            queries["items"]["maxItems"] = json!(served.searcher.dim());
        }
    }
    described
}
