//! Experiments' files: what they say, and what is said of those that cannot be run.

use kiln_builder::IndexKind;

use super::*;

fn parsed(text: &str) -> Experiment {
    parse(Path::new("run.toml"), text, false).unwrap_or_else(|wrong| panic!("{wrong}"))
}

fn refused(text: &str) -> Vec<String> {
    let wrong = parse(Path::new("run.toml"), text, false).expect_err("it is wrong");
    wrong.problems.iter().map(ToString::to_string).collect()
}

/// The shortest file that can be run, with more lines before its engine.
fn short(more: &str) -> String {
    format!("dataset = \"demo\"\nmodes = \"latency-1\"\n{more}\n[[engine]]\nindex = \"vamana\"\n")
}

#[test]
fn the_starter_says_what_it_shows() {
    let experiment = parsed(STARTER);
    assert_eq!(experiment.datasets[0].value, kiln_datasets::Dataset::DEMO);
    assert_eq!((experiment.k.value, experiment.seed, experiment.prune, experiment.quick), (10, 42, true, false));
    assert_eq!(experiment.held_out, Some(HeldOut { fraction: 0.2, seed: 42 }));
    assert_eq!(experiment.modes, [Mode::Latency1, Mode::Throughput { threads: 2 }]);
    assert_eq!(experiment.budget, Some(Duration::from_secs(1800)));
    assert_eq!((experiment.repeats, &experiment.placements[..]), (Repeats::FULL, &[Placement::Memory][..]));
    let counts: Vec<usize> = (experiment.engines.iter())
        .map(|engine| match engine {
            EngineSpec::Build { points, .. } => points.len(),
            _ => panic!("only builds"),
        })
        .collect();
    assert_eq!(counts, [1, 2]);
    // Every line that is commented out, with the comments of prose left alone, is a file too.
    let shown = STARTER.lines().map(|line| {
        let code = line.strip_prefix("# ").unwrap_or(line);
        let is_code = code.starts_with("[[")
            || code
                .split_once(" = ")
                .is_some_and(|(key, _)| !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        if is_code { code } else { line }
    });
    // Of keys that are shown twice the second is the one that shows more.
    let mut lines: Vec<&str> = Vec::new();
    for line in shown {
        if line.starts_with("residency = [\"memory\", ") {
            lines.retain(|line| !line.starts_with("residency = "));
        }
        lines.push(line);
    }
    let whole = parse(Path::new("run.toml"), &lines.join("\n").replace("python3", "sh"), false);
    let whole = whole.unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!((whole.engines.len(), whole.placements.len(), whole.quick), (4, 1 + 4 * 2, true));
}

#[test]
fn a_short_file_has_sane_defaults() {
    let experiment = parsed(&short(""));
    assert_eq!(
        (experiment.k.value, experiment.held_out, experiment.budget, experiment.queries),
        (10, None, None, None)
    );
    assert_eq!((experiment.repeats, experiment.out, experiment.threads), (Repeats::FULL, None, None));
    let EngineSpec::Build { kind, points, search, .. } = &experiment.engines[0] else { panic!("a build") };
    assert_eq!((*kind, points.len(), search), (IndexKind::Vamana, 1, &crate::plan::SearchGrid::default()));
    assert!(parsed("dataset=\"demo\"\nmodes=[\"build\"]\nengine=[{index=\"vamana\"}]").modes.is_empty());
}

#[test]
fn quick_reduces_repeats_whatever_the_file_says() {
    let file = short("[repeats]\nruns = 50\nseconds = 9\n");
    let quick = parse(Path::new("run.toml"), &file, true).expect("sound");
    assert_eq!((quick.repeats, quick.quick), (Repeats::QUICK, true));
    let slow = parsed(&file);
    assert_eq!((slow.repeats.min_runs, slow.repeats.min_seconds), (50, 9.0));
    let less = parse(Path::new("run.toml"), &short("[repeats]\nruns = 1\n"), true).expect("sound");
    assert_eq!(less.repeats.min_runs, 1);
}

#[test]
fn grids_multiply_and_peers_keep_their_own_names() {
    let experiment = parsed(
        r#"
        dataset = ["a.hdf5", "b.hdf5"]
        modes = ["batch-1", "batch-2", "build"]
        threads = 2
        [[engine]]
        index = "ivf-pq"
        build = { nlist = [64, 128], codec = ["pq4", "rabitq4", "sq8"], soar = [true, false] }
        search = { nprobe = [1, 2], rerank = 100 }
        [[engine]]
        open = "x y é.kiln"
        search = { nprobe = 4 }
        [[engine]]
        peer = "hnswlib"
        command = ["sh", "-c", "true"]
        residency = "ssd"
        memory_limit = "1GiB"
        search_timeout = "1.5min"
        [engine.build]
        M = [8, 16]
        efConstruction = 200
        space = "l2"
        [engine.search]
        ef = [10, 20, 40]
        "#,
    );
    assert_eq!(experiment.datasets.len(), 2);
    let EngineSpec::Build { points, search, .. } = &experiment.engines[0] else { panic!("a build") };
    assert_eq!((points.len(), &search.nprobes[..], &search.reranks[..]), (12, &[1, 2][..], &[100][..]));
    let EngineSpec::Open { path, places, .. } = &experiment.engines[1] else { panic!("a file") };
    assert_eq!(path.value, Path::new("x y é.kiln"));
    let foreign = places.foreign_to(IndexKind::Vamana);
    assert_eq!(foreign.len(), 1);
    assert!(foreign[0].0.key == "engine[2].search.nprobe" && foreign[0].1.contains("search_list, navigate"));
    assert!(places.foreign_to(IndexKind::IvfPq).is_empty());
    let EngineSpec::Peers(peers) = &experiment.engines[2] else { panic!("peers") };
    assert_eq!((peers.len(), peers[0].searches.len(), peers[0].residency), (2, 3, Residency::Ssd));
    assert_eq!(peers[1].build["M"], 16);
    assert_eq!((peers[0].build["space"].clone(), peers[0].searches[2]["ef"].clone()), ("l2".into(), 40.into()));
    assert_eq!((peers[0].limits.memory, peers[0].limits.search), (Some(1 << 30), Duration::from_secs(90)));
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_line_key_and_remedy() {
    let told = refused(
        r#"dataste = "demo"
k = 0
held_out = 1.0
modes = ["latency-1", "througput-2", "open-loop"]
time_budget = "soon"
prune = "yes"
io_state = "cold"

[repeats]
rnus = 3

[[engine]]
index = "vamana"
nprobe = 3
[engine.build]
max_degre = 32
alpha = 9
nlist = 4
[engine.search]
nprobe = [1, 2]
search_list = []
navigate = "exakt"

[[engine]]
index = "hnsw"

[[engine]]
peer = "x"
command = ["no-such-program-anywhere"]
open = "y.kiln"

[[engine]]
"#,
    );
    let expected = [
        ("1:1: dataste: ", "did you mean dataset?"),
        ("2:1: k: ", "0 is out of range: use 1 to 65535"),
        ("3:1: held_out: ", "not including, 1"),
        ("4:1: modes: ", "\"througput-2\": use latency-1, throughput-T or batch-T"),
        ("4:1: modes: ", "`kiln load`"),
        ("5:1: time_budget: ", "such as 90s, 30min or 2h"),
        ("6:1: prune: ", "true or false is expected, and it is a string"),
        ("7:1: io_state: ", "add \"ssd\" to residency"),
        ("10:1: repeats.rnus: ", "did you mean runs?"),
        ("16:1: engine[1].build.max_degre: ", "did you mean max_degree?"),
        ("17:1: engine[1].build.alpha: ", "9 is out of range: use 1.0 to 4.0"),
        ("18:1: engine[1].build.nlist: ", "build parameter of ivf-pq; vamana takes method, max_degree"),
        ("20:1: engine[1].search.nprobe: ", "search parameter of ivf-pq; vamana takes search_list, navigate"),
        ("21:1: engine[1].search.search_list: ", "it is empty"),
        ("22:1: engine[1].search.navigate: ", "did you mean exact?"),
        ("25:1: engine[2].index: ", "\"hnsw\": use vamana, ivf-pq"),
        ("engine[3].", "an engine is one of index, open and peer"),
        ("engine[4].index: ", "name what is measured"),
        ("dataset: ", "it is missing"),
        ("14:1: engine[1].nprobe: ", "unknown key; known here: index"),
    ];
    for (place, why) in expected {
        assert!(told.iter().any(|told| told.contains(place) && told.contains(why)), "{place} {why}: {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn grids_that_are_empty_or_absurd_are_refused() {
    let of = |engine: &str| refused(&format!("dataset=\"demo\"\nmodes=\"build\"\n[[engine]]\n{engine}\n"));
    let many = (1..=20).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let told = of(&format!("index = \"ivf-pq\"\nbuild = {{ nlist = [{many}], m = [{many}] }}"));
    assert!(told.len() == 1 && told[0].contains("20 nlist x 20 m are 400 builds: 256 are the most"), "{told:?}");
    let hundred = (1..=50).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let told = of(&format!("index = \"ivf-pq\"\nsearch = {{ nprobe = [{hundred}], rerank = [{hundred}] }}"));
    assert!(told.len() == 1 && told[0].contains("2500 search settings: 2000 are the most"), "{told:?}");
    let told = of(&format!("peer=\"x\"\ncommand=\"sh\"\nbuild = {{ a = [{many}], b = [{many}], c = [{many}] }}"));
    assert!(told.len() == 1 && told[0].contains("8000 builds"), "{told:?}");
    assert!(of("peer=\"x\"\ncommand=\"sh\"\nsearch = { ef = [] }")[0].contains("it is empty"));
    assert!(of("peer=\"x\"\ncommand=\"sh\"\nsearch = { ef = { a = 1 } }")[0].contains("a text, a number"));
    let told = refused("dataset = []\nmodes = []\n[[engine]]\nindex = \"vamana\"\n");
    assert!(told.len() == 2 && told.iter().all(|told| told.contains("it is empty")), "{told:?}");
    let fifteen = "[[engine]]\nindex=\"vamana\"\nbuild={max_degree=[8,16,24,32,40,48,56,64,72,80,88,96,104,112,120]}\n";
    let told = refused(&format!("dataset=\"demo\"\nmodes=\"build\"\n{}", fifteen.repeat(18)));
    assert!(told.len() == 1 && told[0].contains("270 builds in all"), "{told:?}");
}

#[test]
fn text_that_is_no_toml_is_told_by_line() {
    let told = refused("dataset = \"demo\"\nk = = 3\nmodes = [\"build\"\n");
    assert!(told.len() >= 2 && told[0].starts_with("2:"), "{told:?}");
    assert!(refused("dataset = \"a\"\ndataset = \"b\"\n")[0].starts_with("2:1: "), "a key twice");
    let missing = read(Path::new("/nowhere/run.toml"), false).expect_err("missing").to_string();
    assert!(
        missing.starts_with("/nowhere/run.toml:1:1: cannot read") && missing.contains("kiln bench init"),
        "{missing}"
    );
}
