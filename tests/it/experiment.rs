//! `kiln bench --config`: experiments as files, from `kiln bench init` to a report, and what is said of wrong ones.

use crate::common::*;
use serde_json::Value;

/// The shortest experiment there is, with these lines at its top, and these engines.
fn file(place: &Place, top: &str, engines: &str) {
    let dataset = if top.contains("dataset") { "" } else { "dataset = \"set.hdf5\"\n" };
    place.write("run.toml", format!("{dataset}{top}\nmodes = [\"latency-1\"]\nquick = true\nout = \"out\"\n{engines}"));
}

const IVF: &str = "[[engine]]\nindex = \"ivf-pq\"\nbuild = { nlist = 8 }\nsearch = { nprobe = 4 }\n";

fn records(place: &Place, name: &str) -> Vec<Value> {
    place.text(name).lines().map(|line| serde_json::from_str(line).expect("a record a line")).collect()
}

#[test]
fn the_starter_is_written_once_and_can_be_run() {
    let place = Place::new();
    assert_eq!(place.ok(&["bench", "init"]), "wrote run.toml; run it with: kiln bench --config run.toml\n");
    assert_says(&place.fails(2, &["bench", "init"]), &["run.toml", "it is there already"]);
    place.ok(&["bench", "init", "é x.toml"]);
    let starter = std::fs::read_to_string(place.path("run.toml")).expect("written");
    assert_eq!(place.ok(&["bench", "init", "-"]), starter);
    assert_eq!(place.text("é x.toml"), place.text("run.toml"));
    assert_says(&place.fails(1, &["bench", "init", "no/such/folder.toml"]), &["no/such/folder.toml", "cannot write"]);
    // As it is it takes minutes: with less to do it is the same file.
    let text = place.text("run.toml");
    let text =
        text.replace("max_degree = 32", "max_degree = 16").replace("[10, 15, 20, 30, 40, 60, 80, 120]", "[10, 40]");
    let text = text.replace("nlist = [128, 256]", "nlist = 32").replace("[1, 2, 4, 8, 16, 32, 64]", "[1, 8]");
    place.write("run.toml", text.replace("rerank = [100, 200]", "rerank = 100"));
    let told = place.ok(&["bench", "--config", "run.toml", "--quick", "--out", "out", "--json", "figures.json"]);
    assert_says(
        &told,
        &["vamana", "ivf-pq", "latency-1", "throughput-2", "chosen for recall 0.90", "report: out/report.html"],
    );
    let figures = place.json("figures.json");
    assert_eq!(
        figures["rows"].as_array().expect("rows").len() + figures["left_out"].as_array().expect("some").len(),
        8
    );
    assert!(figures["noise"]["spread"].as_f64().is_some() && !figures["choices"].as_array().expect("some").is_empty());
    let header = place.json("out/run.json");
    assert_eq!(header["held_out"]["fraction"], 0.2);
    assert!(header["command"].as_str().expect("text").starts_with("kiln bench --config run.toml"));
}

#[test]
fn a_file_and_flags_make_the_same_plan() {
    let place = Place::new().with_set();
    file(&place, "prune = false", IVF);
    place.ok(&["bench", "--config", "run.toml"]);
    let flags = ["bench", "--dataset", "set.hdf5", "--quick", "--index", "ivf-pq", "--nlist", "8", "--nprobe", "4"];
    // The flags always measure throughput beside: what the file has measured is not measured again for them.
    let before = records(&place, "out/settings.jsonl");
    let again = place.run(&[&flags[..], &["--out", "out"]].concat());
    assert_eq!(again.code, Some(0), "{}", again.err);
    let after = records(&place, "out/settings.jsonl");
    assert_eq!((before.len(), records(&place, "out/builds.jsonl").len()), (1, 1));
    assert!(after.len() > 1 && after[0] == before[0], "{}", after.len());
    assert!(after[1..].iter().all(|setting| setting["mode"]["mode"] == "throughput"));
}

#[test]
fn several_data_sets_have_a_folder_each_and_grids_are_built() {
    let place = Place::new().with_set();
    std::fs::copy(place.path("set.hdf5"), place.path("other é.hdf5")).expect("copied");
    let engines = "[[engine]]\nindex=\"ivf-pq\"\nbuild={nlist=[4,8],codec=[\"pq4\",\"sq8\"]}\nsearch={nprobe=2}\n";
    file(&place, "dataset = [\"set.hdf5\", \"other é.hdf5\"]", engines);
    place.ok(&["bench", "--config", "run.toml", "--json", "all.json"]);
    assert_eq!(place.names("out"), ["set", "other é"].map(String::from).into());
    assert_eq!(records(&place, "out/other é/builds.jsonl").len(), 4);
    assert_eq!(place.json("all.json")["runs"].as_array().expect("two").len(), 2);
    // Again: nothing is built or measured.
    let kept = place.read("out/set/settings.jsonl");
    place.ok(&["bench", "--config", "run.toml"]);
    assert!(place.read("out/set/settings.jsonl") == kept, "a finished run changed");
}

#[test]
fn what_only_the_data_tells_is_refused_with_all_else_before_anything_runs() {
    let place = Place::new().with_indexes();
    let wrong = |top: &str, engines: &str, parts: &[&str]| {
        file(&place, top, engines);
        let ran = place.run(&["bench", "--config", "run.toml"]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{}", ran.err);
        assert_says(&ran.err, parts);
        assert!(!place.path("out").exists(), "something was written");
    };
    wrong("k = 21", IVF, &["run.toml:2:1: k: 21 is beyond the ground truth of set, which lists 20"]);
    let engines = "[[engine]]\nindex=\"ivf-pq\"\nbuild={nlist=[64, 8]}\n[engine.search]\nnprobe=[4, 16]\n\
                   [[engine]]\nindex=\"vamana\"\n[engine.build]\nlayout=\"inline\"\nedge_bits=2\nmax_degree=33\n\
                   [[engine]]\nindex=\"vamana\"\nbuild={edge_bits=2}\n\
                   [[engine]]\nopen=\"vamana.kiln\"\nsearch={nprobe=3}\n\
                   [[engine]]\nopen=\"missing.kiln\"\n\
                   [[engine]]\nindex=\"ivf-pq\"\nbuild={m=9}\n";
    let parts = [
        "6 problems; nothing was run",
        "run.toml:10:1: engine[1].search.nprobe: 16 is more than the 8 lists of an index of set: use 8 or less",
        "run.toml:16:1: engine[2].build.max_degree: max_degree 33 is out of range",
        "engine[3].build.edge_bits: edge_bits applies to layout inline: add that or remove it",
        "engine[4].search.nprobe: a vamana index does not take it; it takes search_list, navigate",
        "engine[5].open: missing.kiln",
        "engine[6].build.m: m 9 is out of range: allowed is 1 to the dimension, 8",
    ];
    wrong("", engines, &parts);
    wrong(
        "dataset = \"base.fbin\"",
        IVF,
        &["run.toml:1:1: dataset: base.fbin: it does not say how", "metric = \"l2\""],
    );
    wrong("dataset = \"base.fbin\"\nmetric = \"l2\"", IVF, &["dataset: base.fbin: it has no queries"]);
    wrong("dataset = \"nowhere.hdf5\"", IVF, &["dataset: nowhere.hdf5", "no such file"]);
    wrong("dataset = [\"set.hdf5\", \"set.hdf5\"]", IVF, &["set is named twice"]);
    wrong("colour = 3", IVF, &["colour: unknown key; known here: dataset, out, k"]);
    let message = place.fails(2, &["bench", "--config", "absent.toml"]);
    assert_says(&message, &["absent.toml:1:1: cannot read", "kiln bench init"]);
    let ran = place.run(&["bench", "--config", "run.toml", "--k", "3"]);
    assert_eq!(ran.code, Some(2), "a flag that the file stands in for");
    // A folder of another run.
    file(&place, "", IVF);
    place.ok(&["bench", "--config", "run.toml"]);
    file(&place, "k = 5", IVF);
    let message = place.fails(2, &["bench", "--config", "run.toml"]);
    assert_says(&message, &["run.toml:1:1: dataset: out: it holds a run whose k is 10", "another --out"]);
}

#[test]
fn kiln_is_a_peer_of_kiln_and_so_is_an_engine_that_does_nothing() {
    let place = Place::new().with_set();
    let kiln = assert_cmd::cargo::cargo_bin!("kiln").display().to_string();
    let engines = format!(
        "{IVF}\n[[engine]]\npeer = \"kiln\"\ncommand = [{kiln:?}, \"peer\"]\n\
         build = {{ index = \"ivf-pq\", nlist = 8 }}\nsearch = {{ nprobe = [4, 0] }}\n\
         [[engine]]\npeer = \"noop\"\ncommand = [{kiln:?}, \"peer\", \"--noop\"]\n"
    );
    file(&place, "prune = false\nthreads = 1", &engines);
    let told = place.ok(&["bench", "--config", "run.toml", "--json", "figures.json"]);
    assert_says(&told, &["ivf-pq", "kiln", "noop", "1 settings failed"]);
    let figures = place.json("figures.json");
    let recall = |name: &str| {
        let rows = figures["rows"].as_array().expect("rows");
        number(rows.iter().find(|row| row["index"] == name).expect("measured"), "/recall")
    };
    assert_eq!((recall("kiln"), recall("noop")), (recall("ivf-pq"), 0.0), "by whichever road");
    assert!(figures["left_out"][0]["why"].as_str().is_some_and(|why| why.contains("nprobe 0: use a number from 1")));
    let overhead = &place.json("out/run.json")["peer_overhead"];
    assert!(number(overhead, "/latency_us") > 0.0 && number(overhead, "/batch_qps") > 0.0, "{overhead}");
    let page = place.text("out/report.html");
    assert_says(&page, &["noop", "kiln"]);
}

/// The Python side of the protocol, where there is a Python with numpy.
#[test]
fn a_python_peer_is_measured_by_its_base_class() {
    let place = Place::new().with_set();
    let python = std::process::Command::new("python3").args(["-c", "import numpy"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no python3 with numpy to run scripts/peers/noop.py with");
        return;
    }
    let peers = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/peers");
    let adapter = "import numpy\nfrom ..base.module import BaseANN\nclass Exact(BaseANN):\n    \
                   def __init__(self, metric): assert metric == 'euclidean'\n    \
                   def fit(self, X): self.X = X\n    def set_query_arguments(self, part): self.part = part\n    \
                   def query(self, q, n):\n        near = ((self.X - q) ** 2).sum(axis=1)[: int(len(self.X) * self.part)]\n        \
                   return numpy.argsort(near)[:n]\n";
    std::fs::create_dir(place.path("exact")).expect("created");
    place.write("exact/module.py", adapter);
    let entry = r#"{"constructor":"Exact","base_args":["@metric"],"run_groups":{"all":{"query_args":[[0.5,1.0]]}}}"#;
    place.write("exact/config.json", format!("{{\"float\":{{\"any\":[{entry}]}}}}"));
    let script = |name: &str| format!("{:?}", peers.join(name).display().to_string());
    let words = "\"--module\", \"exact/module.py\", \"--class\", \"Exact\", \"--config\", \"exact/config.json\"";
    let engines = format!(
        "[[engine]]\npeer = \"noop\"\ncommand = [\"python3\", {}]\n\
         [[engine]]\npeer = \"exact\"\ncommand = [\"python3\", {}, {words}]\nsearch = {{ variant = [0, 1] }}\n",
        script("noop.py"),
        script("ann_benchmarks.py")
    );
    file(&place, "prune = false", &engines);
    place.ok(&["bench", "--config", "run.toml", "--json", "figures.json"]);
    let figures = place.json("figures.json");
    assert_eq!(figures["left_out"], Value::Array(vec![]), "{figures}");
    let recalls: Vec<f64> = (figures["rows"].as_array().expect("rows").iter())
        .filter(|row| row["index"] == "exact")
        .map(|row| number(row, "/recall"))
        .collect();
    assert!(recalls.len() == 2 && recalls.contains(&1.0) && recalls.iter().any(|recall| *recall < 0.9), "{recalls:?}");
}
