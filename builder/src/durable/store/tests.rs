use super::*;
use crate::durable::simulated::{Fault, Simulated};

const FOLDER: &str = "/x.kiln.work";

fn open(files: &Simulated) -> Result<Store, BuilderError> {
    Store::open(Arc::new(files.clone()), Path::new(FOLDER), "fingerprint")
}

fn key(stage: &str) -> Key {
    Key::new(stage, None, &["n 10".to_string()])
}

/// The bytes that unit `number` of a stage always has.
fn content(stage: &str, number: u32, segment: u32) -> Vec<u8> {
    (0..1000 + 3000 * segment + number).map(|i| (i * 7 + number + segment + stage.len() as u32) as u8).collect()
}

fn make(store: &Store, stage: &'static str, number: u32) -> Result<(), BuilderError> {
    let mut writer = store.begin(Unit { stage, number })?;
    writer.segment(&content(stage, number, 0))?;
    let whole = content(stage, number, 1);
    writer.write(&whole[..1234])?;
    writer.write(&whole[1234..])?;
    writer.end_segment()?;
    writer.segment(&[])?;
    writer.commit(&key(stage), "cpu")
}

/// Two stages, the second of which uses up the first: what a build does. Returns the second's bytes.
fn work(files: &Simulated) -> Result<Vec<u8>, BuilderError> {
    let store = open(files)?;
    let second = |number| Unit { stage: "second", number };
    let missing = |stage, number| !store.has(Unit { stage, number }, &key(stage));
    for number in 0..3 {
        let wanted = (0..3).any(|number| missing("second", number));
        if wanted && missing("first", number) {
            make(&store, "first", number)?;
        }
    }
    for number in (0..3).filter(|&number| missing("second", number)) {
        let source = store.open_unit(Unit { stage: "first", number })?;
        assert_eq!(store.read(&source, 0)?, content("first", number, 0));
        assert_eq!(store.read(&source, 1)?, content("first", number, 1));
        make(&store, "second", number)?;
        store.spend(&source, 1)?;
    }
    store.remove("first", None)?;
    let mut all = Vec::new();
    for number in 0..3 {
        let artifact = store.open_checked(second(number))?;
        all.extend(store.read(&artifact, 1)?);
        let mut part = [0; 5];
        artifact.read_at(0, &mut part, 3)?;
        all.extend(part);
    }
    Ok(all)
}

#[test]
fn the_power_may_go_at_any_moment() {
    let files = Simulated::new();
    let expected = work(&files).expect("nothing fails");
    let operations = files.operations();
    assert!(operations > 100, "{operations}");
    for at in 0..operations {
        for seed in 0..4 {
            let files = Simulated::new();
            files.fail_at(at, Fault::Power);
            assert!(work(&files).is_err(), "operation {at} was not missed");
            // It may go a second time, while the first is being recovered from.
            let files = files.after_power_loss(seed * 1000 + at);
            files.fail_at(3 + at % 50, Fault::Power);
            let _ = work(&files);
            let files = files.after_power_loss(seed);
            assert_eq!(work(&files).unwrap_or_else(|error| panic!("operation {at}, seed {seed}: {error}")), expected);
        }
    }
}

#[test]
fn a_full_or_failing_drive_is_told_and_loses_nothing() {
    let files = Simulated::new();
    let expected = work(&files).expect("nothing fails");
    let operations = files.operations();
    for fault in [Fault::Full, Fault::Broken] {
        for at in 0..operations {
            let files = Simulated::new();
            files.fail_at(at, fault);
            match work(&files) {
                Ok(done) => assert_eq!(done, expected),
                Err(BuilderError::Io { path, source, .. }) => {
                    assert!(path.starts_with(FOLDER), "{}", path.display());
                    let told = source.kind() == ErrorKind::StorageFull || source.raw_os_error() == Some(libc::EIO);
                    assert!(told, "{source}");
                }
                Err(other) => panic!("operation {at}, {fault:?}: {other}"),
            }
            files.fail_at(u64::MAX / 2, fault);
            assert_eq!(work(&files).unwrap_or_else(|error| panic!("operation {at}, {fault:?}: {error}")), expected);
        }
    }
}

#[test]
fn damage_is_seen_wherever_it_is() {
    for stage in ["first", "second"] {
        let files = Simulated::new();
        let store = open(&files).expect("opened");
        make(&store, stage_name(stage), 0).expect("made");
        let path = Path::new(FOLDER).join(format!("{stage}-00000"));
        let length = files.all().into_iter().find(|(name, _)| *name == path).expect("there").1;
        let unit = Unit { stage: stage_name(stage), number: 0 };
        for at in (0..length).step_by(97) {
            files.damage(&path, at);
            let seen = open(&files).and_then(|store| {
                let artifact = store.open_checked(unit)?;
                (0..3).map(|segment| store.read(&artifact, segment)).collect::<Result<Vec<_>, _>>()
            });
            match seen {
                Err(BuilderError::Spoiled { path: named, .. }) => assert_eq!(named, path),
                // Between segments lies nothing.
                Ok(segments) => assert_eq!(segments[1], content(stage, 0, 1)),
                Err(other) => panic!("byte {at}: {other}"),
            }
            files.damage(&path, at);
        }
    }
}

fn stage_name(name: &str) -> &'static str {
    if name == "first" { "first" } else { "second" }
}

#[test]
fn a_manifest_that_is_not_whole_is_made_anew() {
    let files = Simulated::new();
    let store = open(&files).expect("opened");
    make(&store, "first", 0).expect("made");
    make(&store, "first", 1).expect("made");
    drop(store);
    files.damage(&Path::new(FOLDER).join(MANIFEST), 40);
    let store = open(&files).expect("opened");
    assert_eq!(store.len(), 2);
    assert!(store.has(Unit { stage: "first", number: 1 }, &key("first")));
}

#[test]
fn other_data_and_other_parameters_are_told_apart() {
    let files = Simulated::new();
    let store = open(&files).expect("opened");
    make(&store, "first", 0).expect("made");
    make(&store, "second", 0).expect("made");
    assert!(!store.has(Unit { stage: "first", number: 0 }, &key("second")));
    assert_eq!(store.keep_only(&[key("second")]).expect("kept"), 1);
    assert!(store.has(Unit { stage: "second", number: 0 }, &key("second")));
    let refused = Store::open(Arc::new(files.clone()), Path::new(FOLDER), "another").map(|_| ());
    let message = refused.expect_err("another data set").to_string();
    assert!(
        message.contains("another") && message.contains("fingerprint") && message.contains("--restart"),
        "{message}"
    );
    Store::clear(&files, Path::new(FOLDER)).expect("cleared");
    assert_eq!(Store::open(Arc::new(files), Path::new(FOLDER), "another").expect("anew").len(), 0);
}
