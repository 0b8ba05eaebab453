//! What a client asks for: queries, k and effort.
//!
//! In: a body (JSON, or raw little-endian f32), a query string, what is served and the server's limits. Out: an
//! [`Asked`] that a search can be begun with, or the error that says what to change. Nothing that a client sends is
//! believed before it is checked here.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::Limits;
use super::error::{ApiError, Kind};
use super::served::Served;
use crate::search_types::{Effort, IndexKind, Navigate, SearchParams};

/// A request that can be answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked {
    /// `(count, dim)`, row-major, all finite.
    pub queries: Vec<f32>,
    pub count: usize,
    pub params: SearchParams,
    /// Tell what each query cost.
    pub stats: bool,
}

/// Everything beside the queries, in the body or in the query string.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Wishes {
    k: Option<usize>,
    search_list: Option<usize>,
    navigate: Option<Navigate>,
    nprobe: Option<usize>,
    rerank: Option<usize>,
    recall: Option<f64>,
    stats: Option<bool>,
}

/// A JSON body. Its fields beside the queries are those of [`Wishes`]: flattening them would lose the refusal of unknown
/// ones.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    queries: Queries,
    k: Option<usize>,
    search_list: Option<usize>,
    navigate: Option<Navigate>,
    nprobe: Option<usize>,
    rerank: Option<usize>,
    recall: Option<f64>,
    stats: Option<bool>,
}

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `application/json`
    Json,
    /// `application/octet-stream`
    Raw,
}

impl Asked {
    /// Reads a request to `served`.
    pub(crate) fn read(
        form: Form,
        body: &[u8],
        query_string: Option<&str>,
        served: &Served,
        limits: &Limits,
    ) -> Result<Self, ApiError> {
        let outside = Wishes::from_query_string(query_string.unwrap_or_default())?;
        // Also of what the body says otherwise.
        outside.check(limits)?;
        let dim = served.searcher.dim();
        let (queries, wishes) = match form {
            Form::Json => {
                if body.trim_ascii_start().first() != Some(&b'{') {
                    return Err(ApiError::new(Kind::Malformed, "the body is not a JSON object"));
                }
                let body: Body = serde_json::from_slice(body)
                    .map_err(|error| ApiError::new(Kind::Malformed, format!("the body is not understood: {error}")))?;
                let Body { queries, k, search_list, navigate, nprobe, rerank, recall, stats } = body;
                let inside = Wishes { k, search_list, navigate, nprobe, rerank, recall, stats };
                (queries, inside.or(outside))
            }
            Form::Raw => (Queries::from_raw(body, dim)?, outside),
        };
        queries.check(dim, limits)?;
        let params = wishes.resolve(served, queries.count, limits)?;
        let stats = wishes.stats.unwrap_or(false);
        Ok(Self { count: queries.count, queries: queries.values, params, stats })
    }
}

impl Wishes {
    /// `k=10&search_list=40`.
    fn from_query_string(text: &str) -> Result<Self, ApiError> {
        let mut wishes = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match name.as_ref() {
                "k" => set(&mut wishes.k, &name, &value, "a whole number")?,
                "search_list" => set(&mut wishes.search_list, &name, &value, "a whole number")?,
                "nprobe" => set(&mut wishes.nprobe, &name, &value, "a whole number")?,
                "rerank" => set(&mut wishes.rerank, &name, &value, "a whole number")?,
                "recall" => set(&mut wishes.recall, &name, &value, "a number")?,
                "stats" => set(&mut wishes.stats, &name, &value, "true or false")?,
                "navigate" => {
                    let word = match value.as_ref() {
                        "best" => Navigate::Best,
                        "exact" => Navigate::Exact,
                        "codes" => Navigate::Codes,
                        _ => return Err(not_understood(&name, &value, "best, exact or codes")),
                    };
                    once(&mut wishes.navigate, &name, word)?;
                }
                _ => {
                    let known = "k, search_list, navigate, nprobe, rerank, recall and stats";
                    let problem = format!("the query string has {name:?}, which is no parameter: there are {known}");
                    return Err(ApiError::new(Kind::Malformed, problem));
                }
            }
        }
        Ok(wishes)
    }

    /// These, and where they say nothing the others.
    fn or(self, others: Self) -> Self {
        Self {
            k: self.k.or(others.k),
            search_list: self.search_list.or(others.search_list),
            navigate: self.navigate.or(others.navigate),
            nprobe: self.nprobe.or(others.nprobe),
            rerank: self.rerank.or(others.rerank),
            recall: self.recall.or(others.recall),
            stats: self.stats.or(others.stats),
        }
    }

    /// Refuses what no search can be asked for.
    fn check(&self, limits: &Limits) -> Result<(), ApiError> {
        self.k.map_or(Ok(()), |k| within("k", k, limits.k))?;
        let sizes = [("search_list", self.search_list), ("nprobe", self.nprobe), ("rerank", self.rerank)];
        for (name, size) in sizes {
            size.map_or(Ok(()), |size| within(name, size, limits.list))?;
        }
        match self.recall {
            Some(recall) if !(recall > 0.0 && recall <= 1.0) => {
                Err(ApiError::new(Kind::Parameter, format!("recall is {recall}: use a number above 0 and at most 1")))
            }
            _ => Ok(()),
        }
    }

    /// The search that is asked for, within the limits.
    fn resolve(&self, served: &Served, queries: usize, limits: &Limits) -> Result<SearchParams, ApiError> {
        self.check(limits)?;
        let k = self.k.unwrap_or(10);
        within("k", k, limits.k)?;
        if k.saturating_mul(queries) > limits.answers {
            let problem = format!(
                "{queries} queries of k {k} are {} neighbours, allowed are {}: send fewer queries at a time",
                k.saturating_mul(queries),
                limits.answers
            );
            return Err(ApiError::new(Kind::Limit, problem));
        }
        let kind = served.searcher.kind();
        let given = [
            ("search_list", self.search_list.is_some(), IndexKind::Vamana),
            ("navigate", self.navigate.is_some(), IndexKind::Vamana),
            ("nprobe", self.nprobe.is_some(), IndexKind::IvfPq),
            ("rerank", self.rerank.is_some(), IndexKind::IvfPq),
        ];
        for (name, given, of) in given {
            if given && of != kind {
                let instead = if kind == IndexKind::Vamana { "search_list" } else { "nprobe" };
                let problem = format!("{name} does not apply to an index of kind {kind}: use {instead}");
                return Err(ApiError::new(Kind::Parameter, problem));
            }
            if given && self.recall.is_some() {
                let problem = format!("recall and {name} contradict each other: give one of them");
                return Err(ApiError::new(Kind::Parameter, problem));
            }
        }
        let mut effort = match self.recall {
            Some(recall) => tuned(served, k, recall)?,
            None => Effort::default_for(kind, k),
        };
        match &mut effort {
            Effort::Graph { search_list, navigate, .. } => {
                *search_list = self.search_list.unwrap_or(*search_list);
                *navigate = self.navigate.unwrap_or(*navigate);
            }
            Effort::Lists { nprobe, rerank, .. } => {
                // To scan every list is all that can be done.
                *nprobe = self.nprobe.unwrap_or(*nprobe).min(served.searcher.nlist().unwrap_or(usize::MAX));
                *rerank = self.rerank.unwrap_or(*rerank);
            }
        }
        Ok(SearchParams { k, effort })
    }
}

/// The setting that `kiln tune` found.
fn tuned(served: &Served, k: usize, recall: f64) -> Result<Effort, ApiError> {
    /// Targets nearer than this are one.
    const SAME: f64 = 1e-9;
    if let Some(found) = served.tuned.iter().find(|t| t.k == k && (t.recall - recall).abs() < SAME) {
        return Ok(found.effort);
    }
    let held: Vec<String> = served.tuned.iter().map(|t| format!("recall@{} {}", t.k, t.recall)).collect();
    let held = if held.is_empty() { "nothing".to_string() } else { held.join(", ") };
    let problem = format!(
        "the index was not tuned for recall@{k} {recall} but for {held}: run `kiln tune` on the server's machine and swap, or \
         give the effort itself"
    );
    Err(ApiError::new(Kind::NotTuned, problem))
}

fn within(name: &str, value: usize, most: usize) -> Result<(), ApiError> {
    match value {
        0 => Err(ApiError::new(Kind::Parameter, format!("{name} is 0: use 1 to {most}"))),
        _ if value > most => {
            Err(ApiError::new(Kind::Limit, format!("{name} is {value}: this server allows 1 to {most}")))
        }
        _ => Ok(()),
    }
}

fn set<T: std::str::FromStr>(slot: &mut Option<T>, name: &str, value: &str, what: &str) -> Result<(), ApiError> {
    once(slot, name, value.parse().map_err(|_| not_understood(name, value, what))?)
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), ApiError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ApiError::new(Kind::Malformed, format!("the query string has {name} more than once"))),
    }
}

fn not_understood(name: &str, value: &str, what: &str) -> ApiError {
    ApiError::new(Kind::Malformed, format!("the query string has {name}={value:?}: use {what}"))
}

/// Vectors as they came, in one piece.
#[derive(Debug, Default)]
struct Queries {
    values: Vec<f32>,
    count: usize,
    /// Coordinates of the first.
    width: usize,
    /// The first query of another width, and that width.
    ragged: Option<(usize, usize)>,
}

impl Queries {
    /// Little-endian floats, one query after another.
    fn from_raw(body: &[u8], dim: usize) -> Result<Self, ApiError> {
        let (floats, rest) = body.as_chunks::<4>();
        if !rest.is_empty() || !floats.len().is_multiple_of(dim) {
            let problem = format!(
                "the body has {} bytes, which is no whole number of queries of {dim} coordinates of 4 bytes",
                body.len()
            );
            return Err(ApiError::new(Kind::Dimension, problem));
        }
        let values: Vec<f32> = floats.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Ok(Self { count: values.len() / dim, values, width: dim, ragged: None })
    }

    fn check(&self, dim: usize, limits: &Limits) -> Result<(), ApiError> {
        if self.count == 0 {
            return Err(ApiError::new(Kind::Parameter, "there are no queries: send one at least"));
        }
        if self.count > limits.queries {
            let problem = format!("there are {} queries, allowed are {} a request", self.count, limits.queries);
            return Err(ApiError::new(Kind::Limit, problem));
        }
        let wrong = if self.width == dim { self.ragged } else { Some((0, self.width)) };
        if let Some((query, width)) = wrong {
            let problem = format!("query {query} has {width} coordinates, the index has {dim}");
            return Err(ApiError::new(Kind::Dimension, problem));
        }
        if let Some(place) = self.values.iter().position(|x| !x.is_finite()) {
            let (query, coordinate) = (place / dim, place % dim);
            let problem = format!("coordinate {coordinate} of query {query} is not a finite 32-bit number");
            return Err(ApiError::new(Kind::NotFinite, problem));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Queries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Queries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of queries, each a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Queries, A::Error> {
                let mut queries = Queries::default();
                while let Some(width) = rows.next_element_seed(Row(&mut queries.values))? {
                    match queries.count {
                        0 => queries.width = width,
                        count if width != queries.width => queries.ragged = queries.ragged.or(Some((count, width))),
                        _ => {}
                    }
                    queries.count += 1;
                }
                Ok(queries)
            }
        }
        deserializer.deserialize_seq(All)
    }
}

/// Appends the numbers of one query, and says how many there were.
struct Row<'a>(&'a mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a query: a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<usize, A::Error> {
        let before = self.0.len();
        while let Some(number) = numbers.next_element::<f32>()? {
            self.0.push(number);
        }
        Ok(self.0.len() - before)
    }
}
