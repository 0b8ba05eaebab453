//! The engines of an experiment's file: Kiln's indexes to build or to open, and peers.
//!
//! In: the tables `[[engine]]`. Out: [`EngineSpec`]s, whose grids are neither empty nor absurd, and whose parameters are
//! those of their kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_builder::{IndexKind, Navigate, Residency};
use kiln_kernels::codec::CodecKind;
use serde_json::Value;

use super::problems::{At, Located};
use super::reader::{Field, Table};
use crate::peer::{PeerLimits, PeerSpec};
use crate::plan::SearchGrid;
use crate::units::{parse_bytes, parse_duration};

/// Builds of one file at most, all engines together: each takes seconds to hours.
pub const MAX_BUILDS: usize = 256;

/// Search settings of one engine at most, its builds and modes not counted.
pub const MAX_SETTINGS: usize = 2_000;

/// An engine of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineSpec {
    /// Kiln's indexes of a kind, one a point of the grid.
    Build {
        /// The kind.
        kind: IndexKind,
        /// The points.
        points: Vec<BuildPoint>,
        /// How each is searched.
        search: SearchGrid,
        /// Where the search parameters stand.
        places: SearchPlaces,
    },
    /// An index file of Kiln's.
    Open {
        /// The file.
        path: Located<PathBuf>,
        /// How it is searched; parameters of the other kind are found out when it is opened.
        search: SearchGrid,
        /// Where the search parameters stand.
        places: SearchPlaces,
    },
    /// Another library, one a point of its grid.
    Peers(Vec<PeerSpec>),
}

/// One build: parameters by name, each with its place.
pub type BuildPoint = BTreeMap<String, Located<Value>>;

/// Where search parameters stand, of those that are given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchPlaces {
    /// The engine.
    pub engine: At,
    /// `search_list`.
    pub search_list: Option<At>,
    /// `navigate`.
    pub navigate: Option<At>,
    /// `nprobe`.
    pub nprobe: Option<At>,
    /// `rerank`.
    pub rerank: Option<At>,
}

impl SearchPlaces {
    /// Parameters that are given and do not apply to indexes of this kind, with the names of those that do.
    pub fn foreign_to(&self, kind: IndexKind) -> Vec<(&At, String)> {
        let (of_graphs, of_lists) = ([&self.search_list, &self.navigate], [&self.nprobe, &self.rerank]);
        let foreign = match kind {
            IndexKind::Vamana => of_lists,
            IndexKind::IvfPq => of_graphs,
        };
        let known = search_keys(kind).join(", ");
        foreign
            .into_iter()
            .flatten()
            .map(|at| (at, format!("a {kind} index does not take it; it takes {known}")))
            .collect()
    }
}

fn search_keys(kind: IndexKind) -> &'static [&'static str] {
    match kind {
        IndexKind::Vamana => &["search_list", "navigate"],
        IndexKind::IvfPq => &["nprobe", "rerank"],
    }
}

/// A build parameter: its name, and what it may be.
type Param = (&'static str, fn(&Field<'_>) -> Option<Value>);

const VAMANA: &[Param] = &[
    ("method", |f| f.choice(&[("partition", "partition"), ("insert", "insert")]).map(Value::from)),
    ("max_degree", |f| f.integer(2..=4096).map(Value::from)),
    ("build_list", |f| f.integer(1..=1 << 16).map(Value::from)),
    ("alpha", alpha),
    ("layout", |f| f.choice(&[("compact", "compact"), ("inline", "inline")]).map(Value::from)),
    ("edge_bits", |f| f.integer(1..=4).map(Value::from)),
    ("m", |f| f.integer(1..=1 << 16).map(Value::from)),
    ("bits", bits),
    ("opq", |f| f.boolean().map(Value::from)),
    ("seed", |f| f.integer(0..=u64::MAX).map(Value::from)),
];

const IVF_PQ: &[Param] = &[
    ("nlist", |f| f.integer(1..=1 << 24).map(Value::from)),
    ("codec", |f| f.parsed(|text| text.parse::<CodecKind>().map_err(|e| e.to_string())).and_then(|_| f.json())),
    ("soar", |f| f.boolean().map(Value::from)),
    ("m", |f| f.integer(1..=1 << 16).map(Value::from)),
    ("bits", bits),
    ("opq", |f| f.boolean().map(Value::from)),
    ("seed", |f| f.integer(0..=u64::MAX).map(Value::from)),
];

fn build_params(kind: IndexKind) -> &'static [Param] {
    match kind {
        IndexKind::Vamana => VAMANA,
        IndexKind::IvfPq => IVF_PQ,
    }
}

/// Whether indexes of a kind have a build parameter of this name.
fn builds_with(kind: IndexKind, key: &str) -> bool {
    build_params(kind).iter().any(|(name, _)| *name == key)
}

fn alpha(field: &Field<'_>) -> Option<Value> {
    let alpha = field.number()?;
    let fits = (1.0..=4.0).contains(&alpha);
    if !fits {
        field.wrong(format!("{alpha} is out of range: use 1.0 to 4.0"));
    }
    fits.then(|| Value::from(alpha))
}

fn bits(field: &Field<'_>) -> Option<Value> {
    let bits = field.integer(4..=8)?;
    if bits != 4 && bits != 8 {
        field.wrong(format!("{bits} is out of range: use 4 or 8"));
        return None;
    }
    Some(Value::from(bits))
}

/// All engines of the file, `threads` to build with.
pub(super) fn of_file(file: &Table<'_>, threads: Option<usize>) -> Vec<EngineSpec> {
    let Some(field) = file.need("engine", "add a table [[engine]] with an index, a file to open, or a peer") else {
        return Vec::new();
    };
    let engines: Vec<EngineSpec> = field.tables().iter().filter_map(|table| of_table(table, threads)).collect();
    let builds: usize = engines.iter().map(builds_of).sum();
    if builds > MAX_BUILDS {
        field.wrong(format!("{builds} builds in all: {MAX_BUILDS} are the most; narrow a grid, or split the file"));
    }
    engines
}

fn builds_of(engine: &EngineSpec) -> usize {
    match engine {
        EngineSpec::Build { points, .. } => points.len(),
        EngineSpec::Open { .. } => 1,
        EngineSpec::Peers(peers) => peers.len(),
    }
}

fn of_table(table: &Table<'_>, threads: Option<usize>) -> Option<EngineSpec> {
    let (index, open, peer) = (table.take("index"), table.take("open"), table.take("peer"));
    match (index, open, peer) {
        (Some(index), None, None) => build_of(table, &index),
        (None, Some(open), None) => {
            let path = open.text().map(PathBuf::from).map(|path| open.located(path));
            let both: Vec<&'static str> = ["search_list", "navigate", "nprobe", "rerank"].into();
            let (search, places) = search_of(table, &both, |_| None);
            table.finish(|key| (key == "build").then(|| "the file is built already: leave it out".to_string()));
            Some(EngineSpec::Open { path: path?, search, places })
        }
        (None, None, Some(peer)) => peers_of(table, &peer, threads),
        (None, None, None) => {
            table.need("index", "name what is measured: index = \"vamana\", open = \"x.kiln\" or peer = \"name\"");
            None
        }
        (first, second, third) => {
            let second = [first, second, third].into_iter().flatten().nth(1);
            second?.wrong("an engine is one of index, open and peer: give each a table [[engine]] of its own");
            None
        }
    }
}

fn build_of(table: &Table<'_>, index: &Field<'_>) -> Option<EngineSpec> {
    let kind = index.choice(&[("vamana", IndexKind::Vamana), ("ivf-pq", IndexKind::IvfPq)]);
    let build = table.take("build").and_then(|field| field.table().map(|table| (field, table)));
    let Some(kind) = kind else {
        // Which keys are known depends on the kind.
        return None;
    };
    let other = match kind {
        IndexKind::Vamana => IndexKind::IvfPq,
        IndexKind::IvfPq => IndexKind::Vamana,
    };
    let mut axes: Vec<(String, Vec<Located<Value>>)> = Vec::new();
    if let Some((_, build)) = &build {
        for &(name, read) in build_params(kind) {
            let Some(field) = build.take(name) else { continue };
            let values = field.each().iter().filter_map(|one| Some(one.located(read(one)?))).collect();
            axes.push((name.to_string(), values));
        }
        build.finish(|key| {
            if search_keys(kind).contains(&key) {
                return Some("it is a search parameter: move it to search".into());
            }
            let takes = names(build_params(kind));
            builds_with(other, key).then(|| format!("it is a build parameter of {other}; {kind} takes {takes}"))
        });
    }
    let (search, places) = search_of(table, search_keys(kind), |key| {
        if search_keys(other).contains(&key) {
            let takes = search_keys(kind).join(", ");
            return Some(format!("it is a search parameter of {other}; {kind} takes {takes}"));
        }
        builds_with(kind, key).then(|| "it is a build parameter: move it to build".into())
    });
    table.finish(|key| {
        if builds_with(kind, key) {
            return Some("it is a build parameter: write build = { .. }, or head it [engine.build]".into());
        }
        let searches = search_keys(kind).contains(&key);
        searches.then(|| "it is a search parameter: write search = { .. }, or head it [engine.search]".into())
    });
    let points = product(&axes, MAX_BUILDS);
    if let (None, Some((field, _))) = (&points, &build) {
        field.wrong(too_many("builds", &axes, MAX_BUILDS));
    }
    Some(EngineSpec::Build { kind, points: points?, search, places })
}

fn names(params: &[Param]) -> String {
    params.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn search_of(
    table: &Table<'_>,
    known: &[&'static str],
    elsewhere: impl Fn(&str) -> Option<String>,
) -> (SearchGrid, SearchPlaces) {
    let mut grid = SearchGrid::default();
    let mut places = SearchPlaces { engine: table.at().clone(), ..SearchPlaces::default() };
    let Some(field) = table.take("search") else { return (grid, places) };
    let Some(search) = field.table() else { return (grid, places) };
    let numbers = |key: &'static str, place: &mut Option<At>| -> Vec<usize> {
        if !known.contains(&key) {
            return Vec::new();
        }
        let Some(field) = search.take(key) else { return Vec::new() };
        *place = Some(field.at.clone());
        field.each().iter().filter_map(|one| one.integer(1..=1 << 32)).map(|value| value as usize).collect()
    };
    grid.search_lists = numbers("search_list", &mut places.search_list);
    grid.nprobes = numbers("nprobe", &mut places.nprobe);
    grid.reranks = numbers("rerank", &mut places.rerank);
    if known.contains(&"navigate")
        && let Some(field) = search.take("navigate")
    {
        places.navigate = Some(field.at.clone());
        let words = [("best", Navigate::Best), ("exact", Navigate::Exact), ("codes", Navigate::Codes)];
        grid.navigate = field.each().iter().filter_map(|one| one.choice(&words)).collect();
    }
    search.finish(elsewhere);
    let sizes = [grid.search_lists.len(), grid.navigate.len(), grid.nprobes.len(), grid.reranks.len()];
    let settings = sizes.iter().map(|&size| size.max(1)).product::<usize>();
    if settings > MAX_SETTINGS {
        field.wrong(format!("{settings} search settings: {MAX_SETTINGS} are the most; narrow the grid"));
    }
    (grid, places)
}

/// Every combination of the values of the axes; `None` where there are more than `most`.
fn product<T: Clone>(axes: &[(String, Vec<T>)], most: usize) -> Option<Vec<BTreeMap<String, T>>> {
    let count = axes.iter().try_fold(1usize, |count, (_, values)| count.checked_mul(values.len()))?;
    if count > most {
        return None;
    }
    let mut points = vec![BTreeMap::new()];
    for (name, values) in axes {
        let extended = points.into_iter().flat_map(|point: BTreeMap<String, T>| {
            values.iter().map(move |value| {
                let mut point = point.clone();
                point.insert(name.clone(), value.clone());
                point
            })
        });
        points = extended.collect();
    }
    Some(points)
}

fn too_many<T>(what: &str, axes: &[(String, Vec<T>)], most: usize) -> String {
    let sizes: Vec<String> = axes.iter().map(|(name, values)| format!("{} {name}", values.len())).collect();
    let count = axes.iter().fold(1usize, |count, (_, values)| count.saturating_mul(values.len()));
    format!("{} are {count} {what}: {most} are the most; narrow the grid", sizes.join(" x "))
}

/// A peer: one engine a point of its build grid.
fn peers_of(table: &Table<'_>, peer: &Field<'_>, threads: Option<usize>) -> Option<EngineSpec> {
    let name = peer.text().map(str::to_string);
    let command = table.need("command", "give the program and its arguments, such as [\"python3\", \"peer.py\"]");
    let command = command.and_then(|field| {
        let words: Vec<String> = field.each().iter().filter_map(|one| Some(one.text()?.to_string())).collect();
        let program = words.first()?;
        if !is_program(program) {
            field.wrong(format!("there is no program {program:?}; give its path, or add its folder to PATH"));
        }
        Some(words)
    });
    let residency = table
        .take("residency")
        .and_then(|field| field.choice(&[("memory", Residency::Memory), ("ssd", Residency::Ssd)]));
    let default = PeerLimits::default();
    let time = |key, otherwise| table.take(key).and_then(|field| field.measure(parse_duration)).unwrap_or(otherwise);
    let limits = PeerLimits {
        memory: table.take("memory_limit").and_then(|field| field.measure(parse_bytes)),
        start: time("start_timeout", default.start),
        build: time("build_timeout", default.build),
        search: time("search_timeout", default.search),
    };
    let build = grid_of(table, "build", "builds", MAX_BUILDS);
    let searches = grid_of(table, "search", "search settings", MAX_SETTINGS);
    table.finish(|_| None);
    let (name, command) = (name?, command?);
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (residency, searches) = (residency.unwrap_or(Residency::Memory), searches?);
    let spec = |build| PeerSpec {
        name: name.clone(),
        command: command.clone(),
        residency,
        build,
        searches: searches.clone(),
        threads,
        limits,
    };
    Some(EngineSpec::Peers(build?.into_iter().map(spec).collect()))
}

/// A peer's grid, whose names only the peer knows; one point without parameters where there is none.
fn grid_of(table: &Table<'_>, key: &'static str, what: &str, most: usize) -> Option<Vec<BTreeMap<String, Value>>> {
    let Some(field) = table.take(key) else { return Some(vec![BTreeMap::new()]) };
    let axes: Vec<(String, Vec<Value>)> = (field.table()?.all().into_iter())
        .map(|(name, field)| (name, field.each().iter().filter_map(Field::json).collect()))
        .collect();
    let points = product(&axes, most);
    if points.is_none() {
        field.wrong(too_many(what, &axes, most));
    }
    points
}

/// Whether a program can be started by this name: a path, or a name in one of the folders of PATH.
fn is_program(name: &str) -> bool {
    if name.contains('/') {
        return Path::new(name).is_file();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(name).is_file())
}
