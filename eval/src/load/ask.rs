//! What a load asks of a server: its description, and searches as whole requests.
//!
//! In: a [`Target`], queries, parameters by name. Out: requests ready to be sent, and the ids of an answer.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_kernels::RowsView;
use ndarray::Array2;
use serde_json::Value;

use super::client::{Connection, Target};

/// The form of bodies and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// JSON, as most clients will use.
    Json,
    /// Little-endian f32, which costs both sides least.
    Raw,
}

impl BodyForm {
    /// `json` or `raw`.
    pub const fn name(self) -> &'static str {
        match self {
            BodyForm::Json => "json",
            BodyForm::Raw => "raw",
        }
    }
}

/// A server that does not do what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No answer.
    #[error("{url}: {fault}; is `kiln serve` running there?")]
    NoAnswer {
        /// The server.
        url: String,
        /// What went wrong.
        fault: &'static str,
    },
    /// An answer that says why not.
    #[error("{url}{path}: status {status}: {told}")]
    Refused {
        /// The server.
        url: String,
        /// What was asked.
        path: &'static str,
        /// The answer's status.
        status: u16,
        /// The server's own words.
        told: String,
    },
    /// An answer that is not one of a Kiln server.
    #[error("{url}{path}: the answer is not understood; is it `kiln serve` that listens there?")]
    Strange {
        /// The server.
        url: String,
        /// What was asked.
        path: &'static str,
    },
}

/// What the server says of the index it serves.
///
/// # Errors
/// When it does not.
pub fn describe(target: &Target, timeout: Duration) -> Result<Value, AskError> {
    const PATH: &str = "/v1/index";
    let mut connection = Connection::new(target, timeout);
    let body = well(target, &mut connection, PATH, &target.request("GET", PATH, &["accept: application/json"], b""))?;
    let told: Option<Value> = serde_json::from_slice(&body).ok();
    let index = told.and_then(|mut told| told.get_mut("index").map(Value::take)).filter(Value::is_object);
    index.ok_or_else(|| AskError::Strange { url: target.url.clone(), path: PATH })
}

/// One request a query of `queries` `(queries, dim)`.
pub fn searches(
    target: &Target,
    queries: &RowsView<'_>,
    k: usize,
    params: &BTreeMap<String, Value>,
    form: BodyForm,
) -> Vec<Vec<u8>> {
    let rows = queries.to_f32();
    let path = std::iter::once(format!("/v1/search?k={k}"))
        .chain(params.iter().map(|(name, value)| format!("{name}={}", value.to_string().trim_matches('"'))))
        .collect::<Vec<_>>()
        .join("&");
    rows.outer_iter()
        .map(|row| match form {
            BodyForm::Raw => {
                let body: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                let headers = ["content-type: application/octet-stream", "accept: application/octet-stream"];
                target.request("POST", &path, &headers, &body)
            }
            BodyForm::Json => {
                // Written as f32: a detour through f64 would send digits that mean nothing.
                let numbers: Vec<String> = row.iter().map(f32::to_string).collect();
                let mut body = format!("{{\"queries\":[[{}]],\"k\":{k}", numbers.join(","));
                params.iter().for_each(|(name, value)| body += &format!(",\"{name}\":{value}"));
                body.push('}');
                let headers = ["content-type: application/json", "accept: application/json"];
                target.request("POST", "/v1/search", &headers, body.as_bytes())
            }
        })
        .collect()
}

/// Sends each request once, one after another: the ids of the answers `(requests, k)`, -1 where there are fewer.
///
/// # Errors
/// The first request that is not answered well.
pub fn answers(
    target: &Target,
    requests: &[Vec<u8>],
    k: usize,
    form: BodyForm,
    timeout: Duration,
) -> Result<Array2<i64>, AskError> {
    const PATH: &str = "/v1/search";
    let mut connection = Connection::new(target, timeout);
    let mut ids = Array2::from_elem((requests.len(), k), -1);
    for (request, mut slots) in requests.iter().zip(ids.outer_iter_mut()) {
        let body = well(target, &mut connection, PATH, request)?;
        let found = ids_of(&body, form).ok_or_else(|| AskError::Strange { url: target.url.clone(), path: PATH })?;
        slots.iter_mut().zip(found).for_each(|(slot, id)| *slot = id);
    }
    Ok(ids)
}

/// The body of an answer, which must be a good one.
fn well(
    target: &Target,
    connection: &mut Connection<'_>,
    path: &'static str,
    request: &[u8],
) -> Result<Vec<u8>, AskError> {
    let url = || target.url.clone();
    match connection.exchange(request) {
        Ok(200) => Ok(connection.body().to_vec()),
        Ok(status) => {
            let told: Option<Value> = serde_json::from_slice(connection.body()).ok();
            let told = told.and_then(|told| Some(told.pointer("/error/message")?.as_str()?.to_string()));
            Err(AskError::Refused { url: url(), path, status, told: told.unwrap_or_else(|| "without a reason".into()) })
        }
        Err(fault) => Err(AskError::NoAnswer { url: url(), fault: fault.name() }),
    }
}

/// The ids of an answer to one query; 2^64 - 1 becomes -1.
fn ids_of(body: &[u8], form: BodyForm) -> Option<Vec<i64>> {
    match form {
        BodyForm::Json => {
            let told: Value = serde_json::from_slice(body).ok()?;
            let ids = told.pointer("/results/0/ids")?.as_array()?;
            ids.iter().map(Value::as_i64).collect()
        }
        BodyForm::Raw => {
            let k = u32::from_le_bytes(*body.get(4..)?.first_chunk()?) as usize;
            let ids = body.get(8..8 + 8 * k)?;
            Some(ids.as_chunks::<8>().0.iter().map(|&id| i64::from_le_bytes(id)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_kernels::Rows;
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_carry_the_query_and_the_parameters() {
        let target = Target::new("http://127.0.0.1:80", None).expect("a target");
        let queries = Rows::F32(ndarray::array![[0.5f32, -1.0], [2.0, 3.0]]);
        let params = BTreeMap::from([("navigate".to_string(), json!("codes")), ("search_list".to_string(), json!(40))]);
        let raw = searches(&target, &queries.view(), 5, &params, BodyForm::Raw);
        let head = b"POST /v1/search?k=5&navigate=codes&search_list=40 HTTP/1.1\r\n";
        assert!(raw.len() == 2 && raw[0].starts_with(head));
        assert!(raw[0].ends_with(&[0, 0, 0, 0x3f, 0, 0, 0x80, 0xbf]));
        let asked = searches(&target, &queries.view(), 5, &params, BodyForm::Json);
        let body = asked[1].windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let body: Value = serde_json::from_slice(&asked[1][body..]).expect("JSON");
        assert_eq!(body, json!({ "queries": [[2, 3]], "k": 5, "navigate": "codes", "search_list": 40 }));
    }

    #[test]
    fn ids_are_read_from_both_forms() {
        let json = br#"{"results":[{"ids":[7,3],"distances":[0.5,1.0]}]}"#;
        assert_eq!(ids_of(json, BodyForm::Json), Some(vec![7, 3]));
        let mut raw = [1u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
        [7u64, u64::MAX].iter().for_each(|id| raw.extend_from_slice(&id.to_le_bytes()));
        assert_eq!(ids_of(&raw, BodyForm::Raw), Some(vec![7, -1]));
        assert_eq!(ids_of(&raw[..20], BodyForm::Raw), None);
        assert_eq!(ids_of(b"{}", BodyForm::Json), None);
    }
}
