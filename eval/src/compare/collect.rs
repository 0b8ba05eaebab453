//! The runs of a side by what they measured: the same data, machine, k and queries make a [`Subject`].
//!
//! In: runs. Out: subjects, each with its indexes and, for every index, mode and place, a [`Line`] whose settings hold all
//! the runs that measured them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::sample::{Sampled, Series};
use super::side::Run;
use crate::record::{BuildRecord, IoState, Mode, PeerPoint, PeerRecord, SettingRecord};

/// What must be alike for figures to be compared at all.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conditions {
    pub dataset: String,
    pub fingerprint: String,
    pub metric: String,
    pub queries: usize,
    pub k: usize,
    pub cpu: String,
    pub cpus: usize,
    pub cpu_limit: Option<f64>,
}

impl Conditions {
    fn of(run: &Run) -> Self {
        let header = &run.data.header;
        let (machine, dataset) = (&header.machine, &header.dataset);
        Self {
            dataset: dataset.name.clone(),
            fingerprint: dataset.fingerprint.clone(),
            metric: dataset.metric.clone(),
            queries: dataset.queries,
            k: header.k,
            cpu: machine.cpu.clone(),
            cpus: machine.cpus,
            cpu_limit: machine.cpu_limit,
        }
    }

    /// The first condition that differs, in words; `None` where all are alike.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let limit = |limit: Option<f64>| limit.map_or("none".to_string(), |cpus| format!("{cpus} CPUs"));
        let compared = [
            // By content: one set may go by several names.
            ("other data: fingerprint", self.fingerprint.clone(), other.fingerprint.clone()),
            ("other data: metric", self.metric.clone(), other.metric.clone()),
            ("other k:", self.k.to_string(), other.k.to_string()),
            ("other queries:", self.queries.to_string(), other.queries.to_string()),
            ("other machine: CPU", self.cpu.clone(), other.cpu.clone()),
            ("other machine: CPUs", self.cpus.to_string(), other.cpus.to_string()),
            ("other machine: CPU limit", limit(self.cpu_limit), limit(other.cpu_limit)),
        ];
        let (what, a, b) = compared.into_iter().find(|(_, a, b)| a != b)?;
        Some(format!("{what} {a} in A, {b} in B"))
    }
}

/// Where an index lay while it was searched.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub residency: String,
    pub io_state: Option<IoState>,
    pub memory_budget: Option<u64>,
    /// What held it, unless that was memory.
    pub drive: Option<String>,
}

impl Place {
    fn of(run: &Run, setting: &SettingRecord) -> Self {
        let machine = &run.data.header.machine;
        let drive = machine.drive.clone().into_iter().chain(machine.filesystem.clone()).collect::<Vec<_>>().join(", ");
        Self {
            residency: setting.residency.clone(),
            io_state: setting.io_state,
            memory_budget: setting.memory_budget,
            drive: (setting.residency != "memory").then_some(drive),
        }
    }

    /// `memory`, `ssd, direct, 8388608 bytes of memory`.
    pub(crate) fn words(&self) -> String {
        let state = self.io_state.map(|state| format!(", {}", state.name())).unwrap_or_default();
        let memory = self.memory_budget.map(|bytes| format!(", {bytes} bytes of memory")).unwrap_or_default();
        format!("{}{state}{memory}", self.residency)
    }
}

/// An index or another library, as the runs of a side built it.
#[derive(Debug, Clone)]
pub(crate) struct Engine<'a> {
    pub name: String,
    /// What tells it from others of its kind: build parameters, or a library's version.
    pub params: BTreeMap<String, Value>,
    pub device: String,
    /// Which of several that are alike in one run, from 0.
    pub copy: usize,
    /// One for each run that built or opened it; none of another library.
    pub builds: Vec<&'a BuildRecord>,
}

/// An engine in one mode and place.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Position in [`Subject::engines`].
    pub engine: usize,
    pub mode: Mode,
    pub place: Place,
    pub series: Series,
}

/// The runs of a side under the same conditions.
#[derive(Debug, Clone)]
pub(crate) struct Subject<'a> {
    pub conditions: Conditions,
    pub rows: u64,
    pub engines: Vec<Engine<'a>>,
    pub lines: Vec<Line>,
}

/// Sorts runs by their conditions, in the order in which these appear.
pub(crate) fn collect<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Vec<Subject<'a>> {
    let mut alike: Vec<(Conditions, Vec<&Run>)> = Vec::new();
    for run in runs {
        let conditions = Conditions::of(run);
        match alike.iter_mut().find(|(known, _)| known.difference(&conditions).is_none()) {
            Some((_, runs)) => runs.push(run),
            None => alike.push((conditions, vec![run])),
        }
    }
    alike.into_iter().map(|(conditions, runs)| Subject::of(conditions, runs)).collect()
}

/// The records of one setting, each with the number of its run.
enum Records<'a> {
    Own(Vec<(usize, &'a SettingRecord)>),
    Peer(Vec<(usize, &'a PeerPoint)>),
}

/// The settings of a line while they are collected: by parameters, in the order of appearance.
struct Gathered<'a> {
    engine: usize,
    mode: Mode,
    place: Place,
    settings: Vec<(&'a BTreeMap<String, Value>, Records<'a>)>,
}

impl<'a> Subject<'a> {
    fn of(conditions: Conditions, runs: Vec<&'a Run>) -> Self {
        let mut engines: Vec<Engine> = Vec::new();
        let mut gathered: Vec<Gathered> = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            let own = enrol_builds(&mut engines, run);
            for setting in &run.data.settings {
                // What others measured elsewhere, and said in a median alone, is tested against nothing.
                let Some(&engine) = own.get(setting.build_key.as_str()).filter(|_| !setting.is_foreign()) else {
                    continue;
                };
                let line = line(&mut gathered, engine, setting.mode, Place::of(run, setting));
                match line.settings.iter_mut().find(|(params, _)| **params == setting.params) {
                    // Within a run the later record stands.
                    Some((_, Records::Own(records))) => {
                        records.retain(|(run, _)| *run != number);
                        records.push((number, setting));
                    }
                    _ => line.settings.push((&setting.params, Records::Own(vec![(number, setting)]))),
                }
            }
            for (place, peer) in run.data.peers.iter().enumerate() {
                // The same library several times, with other sizes of its cache.
                let alike = |other: &&PeerRecord| {
                    (&other.name, &other.version, &other.residency, other.threads)
                        == (&peer.name, &peer.version, &peer.residency, peer.threads)
                };
                let copy = run.data.peers[..place].iter().filter(alike).count();
                let engine = enrol_peer(&mut engines, &peer.name, &peer.version, copy);
                let (residency, drive) = (peer.residency.clone(), None);
                let place = Place { residency, io_state: None, memory_budget: None, drive };
                let line = line(&mut gathered, engine, Mode::Batch { threads: peer.threads }, place);
                for point in &peer.points {
                    match line.settings.iter_mut().find(|(params, _)| **params == point.params) {
                        Some((_, Records::Peer(records))) => records.push((number, point)),
                        _ => line.settings.push((&point.params, Records::Peer(vec![(number, point)]))),
                    }
                }
            }
        }
        let lines = gathered.into_iter().filter_map(Gathered::line).collect();
        let rows = runs.first().map_or(0, |run| run.data.header.dataset.rows);
        Self { conditions, rows, engines, lines }
    }
}

impl Gathered<'_> {
    /// `None` where no setting was measured.
    fn line(self) -> Option<Line> {
        let sampled = |(_, records)| match records {
            Records::Own(records) => Sampled::of(&records),
            Records::Peer(records) => Sampled::of_peer(&records),
        };
        let settings: Vec<Sampled> = self.settings.into_iter().filter_map(sampled).collect();
        let (engine, mode, place) = (self.engine, self.mode, self.place);
        (!settings.is_empty()).then(|| Line { engine, mode, place, series: Series::new(settings) })
    }
}

fn line<'g, 'a>(gathered: &'g mut Vec<Gathered<'a>>, engine: usize, mode: Mode, place: Place) -> &'g mut Gathered<'a> {
    let found = gathered.iter().position(|g| (g.engine, g.mode) == (engine, mode) && g.place == place);
    let at = found.unwrap_or_else(|| {
        gathered.push(Gathered { engine, mode, place, settings: Vec::new() });
        gathered.len() - 1
    });
    &mut gathered[at]
}

/// Adds the indexes of a run to those of its side, and says which is which by the run's own keys.
fn enrol_builds<'a>(engines: &mut Vec<Engine<'a>>, run: &'a Run) -> BTreeMap<&'a str, usize> {
    let mut own: BTreeMap<&str, usize> = BTreeMap::new();
    for build in &run.data.builds {
        let alike = |engine: &Engine| {
            engine.name == build.index && engine.params == build.params && engine.device == build.device
        };
        let copy = own.values().filter(|&&at| alike(&engines[at])).count();
        let at = engines.iter().position(|engine| alike(engine) && engine.copy == copy).unwrap_or_else(|| {
            let (name, params, device) = (build.index.clone(), build.params.clone(), build.device.clone());
            engines.push(Engine { name, params, device, copy, builds: Vec::new() });
            engines.len() - 1
        });
        engines[at].builds.push(build);
        own.insert(&build.key, at);
    }
    own
}

fn enrol_peer(engines: &mut Vec<Engine<'_>>, name: &str, version: &str, copy: usize) -> usize {
    let params = BTreeMap::from([("version".to_string(), Value::from(version))]);
    let known = |engine: &Engine| engine.name == name && engine.params == params && engine.copy == copy;
    engines.iter().position(known).unwrap_or_else(|| {
        engines.push(Engine { name: name.to_string(), params, device: String::new(), copy, builds: Vec::new() });
        engines.len() - 1
    })
}

/// Pairs the engines of two sides: alike in every parameter, else but for the device, else the only ones left of their
/// kind.
pub(crate) fn pair_engines(a: &[Engine<'_>], b: &[Engine<'_>]) -> Vec<(usize, usize)> {
    type Alike = fn(&Engine<'_>, &Engine<'_>) -> bool;
    let stages: [Alike; 2] = [
        |a, b| (&a.name, &a.params, &a.device, a.copy) == (&b.name, &b.params, &b.device, b.copy),
        |a, b| (&a.name, &a.params) == (&b.name, &b.params),
    ];
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for alike in stages {
        for (i, one) in a.iter().enumerate() {
            let other = b
                .iter()
                .enumerate()
                .position(|(j, other)| alike(one, other) && pairs.iter().all(|&(pi, pj)| pi != i && pj != j));
            pairs.extend(other.map(|j| (i, j)));
        }
    }
    for (i, one) in a.iter().enumerate() {
        let left = |side: &[Engine<'_>], taken: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..side.len()).filter(|&at| side[at].name == one.name && !taken(at)).collect()
        };
        let left_a = left(a, &|at| pairs.iter().any(|&(pi, _)| pi == at));
        let left_b = left(b, &|at| pairs.iter().any(|&(_, pj)| pj == at));
        if let ([only_a], [only_b]) = (&left_a[..], &left_b[..])
            && *only_a == i
        {
            pairs.push((i, *only_b));
        }
    }
    pairs.sort_unstable();
    pairs
}

impl Engine<'_> {
    /// What differs from another: `max_degree 32 -> 48`.
    pub(crate) fn changes(&self, other: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<&String> = self.params.keys().chain(other.params.keys()).collect();
        let show = |value: Option<&Value>| value.map_or("none".to_string(), plain);
        let mut changes: Vec<String> = names
            .into_iter()
            .map(|name| (name, self.params.get(name), other.params.get(name)))
            .filter(|(_, a, b)| a != b)
            .map(|(name, a, b)| format!("{name} {} -> {}", show(a), show(b)))
            .collect();
        if self.device != other.device {
            changes.push(format!("built on {} -> {}", self.device, other.device));
        }
        changes
    }

    /// Its kind, and the parameters in which it differs from others of its kind on this side.
    pub(crate) fn label(&self, side: &[Engine<'_>]) -> String {
        let kin: Vec<&Engine> = side.iter().filter(|engine| engine.name == self.name).collect();
        let telling = (self.params.iter())
            .filter(|(name, value)| kin.iter().any(|engine| engine.params.get(*name) != Some(value)))
            .map(|(name, value)| format!(" {name}={}", plain(value)));
        let copy = if self.copy > 0 { format!(" #{}", self.copy + 1) } else { String::new() };
        format!("{}{}{copy}", self.name, telling.collect::<String>())
    }
}

/// A parameter's value, text without quotes.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn engine(name: &str, degree: u32, device: &str, copy: usize) -> Engine<'static> {
        let params = BTreeMap::from([("max_degree".to_string(), json!(degree)), ("method".into(), json!("partition"))]);
        Engine { name: name.into(), params, device: device.into(), copy, builds: Vec::new() }
    }

    #[test]
    fn engines_are_paired_by_what_they_share() {
        let a = [engine("vamana", 32, "cpu", 0), engine("vamana", 48, "cpu", 0), engine("ivf-pq", 0, "cpu", 0)];
        let same = [engine("ivf-pq", 0, "cpu", 0), engine("vamana", 48, "cpu", 0), engine("vamana", 32, "cpu", 0)];
        assert_eq!(pair_engines(&a, &same), [(0, 2), (1, 1), (2, 0)]);
        // One on another device; one whose only kin left has another degree.
        let changed = [engine("vamana", 48, "cuda", 0), engine("vamana", 64, "cpu", 0)];
        assert_eq!(pair_engines(&a, &changed), [(0, 1), (1, 0)]);
        assert_eq!(a[0].changes(&changed[1]), ["max_degree 32 -> 64"]);
        assert_eq!(a[1].changes(&changed[0]), ["built on cpu -> cuda"]);
        // Which of two goes with the one is anyone's guess.
        assert_eq!(pair_engines(&a, &[engine("vamana", 64, "cpu", 0)]), []);
        // Copies go by their order.
        let twice = [engine("vamana", 32, "cpu", 0), engine("vamana", 32, "cpu", 1)];
        assert_eq!(pair_engines(&twice, &twice), [(0, 0), (1, 1)]);
    }

    #[test]
    fn labels_name_what_tells_engines_apart() {
        let side = [engine("vamana", 32, "cpu", 0), engine("vamana", 48, "cpu", 0), engine("ivf-pq", 9, "cpu", 0)];
        let labels: Vec<String> = side.iter().map(|engine| engine.label(&side)).collect();
        assert_eq!(labels, ["vamana max_degree=32", "vamana max_degree=48", "ivf-pq"]);
    }
}
