//! Files that are not what was written: whatever byte is wrong, the file is refused by name, and nothing panics.

use std::ops::Range;
use std::path::Path;

use crate::common::*;
use kiln_builder::{
    BuilderError, Effort, Index, IndexKind, IndexParams, Navigate, Residency, SearchParams, inspect, verify,
};
use kiln_kernels::{DType, Metric, Rows};
use xxhash_rust::xxh3::xxh3_64;

const PAGE: usize = 4096;
const N: usize = 300;

fn rows() -> Rows {
    clustered(DType::F32, N, 24, 1)
}

/// A small index of each kind, several pages a section.
fn indexes() -> Vec<Built> {
    let params = [IndexParams::Vamana(vamana(16, 30, 6)), IndexParams::IvfPq(ivf_pq(8, 6))];
    params.map(|params| build_index(&rows(), Metric::Cosine, params)).into()
}

/// The sections of an index with their bytes in the file.
fn sections(path: &Path) -> Vec<(&'static str, Range<usize>)> {
    let found = inspect(path).expect("sound");
    found.sections.iter().map(|s| (s.name, s.offset as usize..(s.offset + s.length) as usize)).collect()
}

/// Places in a section: its ends, and every `step` bytes between.
fn places(range: &Range<usize>, step: usize) -> impl Iterator<Item = usize> + use<> {
    range.clone().step_by(step).chain([range.end - 1])
}

fn message_naming(path: &Path, error: &BuilderError) -> String {
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "{message:?} does not name {}", path.display());
    message
}

/// Opens, and where that works searches all there is, by codes too. The first error found must name the file.
fn use_it(path: &Path, residency: Residency) -> Result<(), String> {
    let run = || -> Result<(), BuilderError> {
        let index = Index::open(path, residency)?;
        let queries = rows();
        let efforts = match index.kind() {
            IndexKind::Vamana => {
                vec![graph(N), Effort::Graph { search_list: N, navigate: Navigate::Codes }]
            }
            IndexKind::IvfPq => vec![lists(N, N)],
        };
        efforts
            .into_iter()
            .try_for_each(|effort| index.search(&queries.view().slice(0..1), &SearchParams { k: N, effort }).map(drop))
    };
    run().map_err(|error| message_naming(path, &error))
}

/// The message with which every way to open a file refuses it.
fn refused(path: &Path) -> String {
    let open = |residency| Index::open(path, residency).map(drop).expect_err("refused");
    let message = message_naming(path, &open(Residency::Memory));
    assert_eq!(message, message_naming(path, &open(Residency::Ssd)));
    assert_eq!(message, message_naming(path, &verify(path, |_| ()).expect_err("refused")));
    assert_eq!(message, message_naming(path, &inspect(path).map(drop).expect_err("refused")));
    message
}

/// Writes the header's checksum anew.
fn seal(bytes: &mut [u8]) {
    let sum = xxh3_64(&bytes[..PAGE - 8]);
    bytes[PAGE - 8..PAGE].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_fresh_index_is_sound() {
    for built in indexes() {
        let mut read = 0;
        verify(&built.path, |bytes| read += bytes).expect("sound");
        assert!(read > 0 && read <= built.report.index_bytes);
        for residency in [Residency::Memory, Residency::Ssd] {
            use_it(&built.path, residency).expect("sound");
        }
    }
}

#[test]
fn any_flipped_bit_of_the_header_is_refused() {
    for built in indexes() {
        let sound = built.bytes();
        for at in 0..PAGE {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&built.path, &bytes).expect("written");
            let message = refused(&built.path);
            match at {
                0..8 => assert!(message.contains("not a Kiln index"), "{message}"),
                8..12 => assert!(message.contains("version"), "{message}"),
                _ => assert!(message.contains("header's checksum"), "byte {at}: {message}"),
            }
        }
    }
}

#[test]
fn verify_finds_any_flipped_byte() {
    for built in indexes() {
        let sound = built.bytes();
        let (sections, whole) = (sections(&built.path), PAGE..sound.len());
        let within = |at: usize| sections.iter().find(|(_, range)| range.contains(&at)).map(|(name, _)| *name);
        let paddings = sections.iter().map(|(_, range)| range.end..range.end.next_multiple_of(PAGE));
        // All over the file, both ends of every section, and the padding after each.
        let mut flipped: Vec<usize> = places(&whole, 97).collect();
        flipped.extend(sections.iter().flat_map(|(_, range)| places(range, range.len())));
        flipped.extend(paddings.filter(|padding| !padding.is_empty()).flat_map(|padding| places(&padding, 500)));
        assert!(flipped.iter().any(|&at| within(at).is_none()), "no padding was tried");
        for at in flipped {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&built.path, &bytes).expect("written");
            let section = within(at).unwrap_or("padding");
            let Err(error) = verify(&built.path, |_| ()) else {
                panic!("{}: byte {at} ({section}) of {} went unnoticed", built.report.index, sound.len());
            };
            message_naming(&built.path, &error);
        }
    }
}

#[test]
fn a_flipped_byte_that_a_search_reads_never_goes_unnoticed() {
    for built in indexes() {
        let sound = built.bytes();
        for (section, range) in sections(&built.path) {
            for at in places(&range, range.len() / 12 + 1) {
                let mut bytes = sound.clone();
                bytes[at] ^= 1;
                std::fs::write(&built.path, &bytes).expect("written");
                for residency in [Residency::Memory, Residency::Ssd] {
                    // In memory the sections have checksums of their own: nothing reads the sums of the pages.
                    if (section, residency) == ("sums", Residency::Memory) {
                        use_it(&built.path, residency).expect("not read");
                        continue;
                    }
                    let what = format!("{} {section}, byte {at}, {residency:?}", built.report.index);
                    let message = use_it(&built.path, residency).expect_err(&what);
                    assert!(message.contains("does not match its checksum"), "{what}: {message}");
                    assert!(message.contains("restore the file from a copy or build it again"), "{message}");
                }
            }
        }
    }
}

#[test]
fn on_the_drive_a_damaged_page_is_named_by_the_query_that_reads_it() {
    for built in indexes() {
        let sound = built.bytes();
        let read_late = if built.report.index == IndexKind::Vamana { "nodes" } else { "vectors" };
        let (_, range) = sections(&built.path).into_iter().find(|(name, _)| *name == read_late).expect("there");
        let mut answered = Vec::new();
        for at in range.step_by(PAGE) {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x80;
            std::fs::write(&built.path, &bytes).expect("written");
            let index = Index::open(&built.path, Residency::Ssd).expect("the damage is not read yet");
            let queries = rows();
            let params = SearchParams { k: 1, effort: everything(index.kind(), N) };
            let error = index.search(&queries.view().slice(0..1), &params).expect_err("damaged");
            assert!(matches!(error, BuilderError::Damaged { .. }), "{error:?}");
            let (message, page) = (message_naming(&built.path, &error), at / PAGE);
            assert!(message.contains(&format!("page {page} (byte {})", page * PAGE)), "{message}");
            // A query that reads other pages is answered, and the same index still answers it afterwards. By codes a walk reads
            // the few nodes that it visits, and not the pages of all their neighbours.
            let little = if built.report.index == IndexKind::Vamana { by_codes(1) } else { lists(1, 1) };
            let others = (0..N).filter(|&query| {
                let query = queries.view().slice(query..query + 1);
                index.search(&query, &SearchParams { k: 1, effort: little }).is_ok()
            });
            answered.push(others.count());
        }
        // A page that all searches pass through costs every query; most are not.
        let spared = answered.iter().filter(|&&count| count > 0).count();
        assert!(2 * spared > answered.len(), "queries answered beside each damaged page: {answered:?}");
    }
}

#[test]
fn a_file_cut_short_or_appended_to_is_refused() {
    for built in indexes() {
        let sound = built.bytes();
        let ends = [1, 7, 8, 9, 31, 32, 33, PAGE - 1, PAGE, PAGE + 1, sound.len() - PAGE, sound.len() - 1];
        for length in ends.into_iter().chain((PAGE..sound.len()).step_by(1999)) {
            std::fs::write(&built.path, &sound[..length]).expect("written");
            let message = refused(&built.path);
            match length {
                0..8 => assert!(message.contains("not a Kiln index"), "{message}"),
                8..PAGE => assert!(message.contains(&format!("ends within its header, at byte {length}")), "{message}"),
                _ => {
                    let lengths = format!("has {length} bytes, its header says {}", sound.len());
                    assert!(message.contains(&lengths), "{message}");
                }
            }
        }
        std::fs::write(&built.path, [&sound[..], &[0]].concat()).expect("written");
        assert!(refused(&built.path).contains("its header says"));
    }
}

#[test]
fn a_file_that_is_no_index_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("other.kiln");
    let hdf5 = [b"\x89HDF\r\n\x1a\n".as_slice(), &[0; 9000]].concat();
    for content in [b"".as_slice(), b"x", b"KILNIDX", b"KILNIDX\x01", b"{\"json\": true}", &[0; 8192], &hdf5] {
        std::fs::write(&path, content).expect("written");
        let message = refused(&path);
        assert!(message.contains("not a Kiln index") && message.contains("kiln build"), "{message}");
    }
    refused(&folder.path().join("missing.kiln"));
    // A folder may be a shard set.
    let message = Index::open(folder.path(), Residency::Memory).map(drop).expect_err("no set").to_string();
    assert!(message.contains("set.json") && message.contains("kiln append"), "{message}");
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    for built in indexes() {
        for (version, sealed) in [(3u32, true), (3, false), (0, true), (4_000_000_000, false)] {
            let mut bytes = built.bytes();
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            if sealed {
                seal(&mut bytes);
            }
            let path = built.folder.path().join("other-version.kiln");
            std::fs::write(&path, &bytes).expect("written");
            let message = refused(&path);
            let both = format!("format version {version}, this Kiln reads versions 1 to 2");
            assert!(message.contains(&both) && message.contains("rebuild"), "{message}");
        }
    }
}

#[test]
fn a_header_that_lies_is_refused_though_its_checksum_is_right() {
    for built in indexes() {
        let sound = built.bytes();
        // Page size, length, number of sections; then of each section its number, offset, length and checksum. What
        // is left out is reserved: bytes 28 to 32, and 4 to 8 of each section.
        let table = 32..32 + 32 * sections(&built.path).len();
        let of_section =
            table.step_by(32).flat_map(|row| [row, row + 8, row + 12, row + 16, row + 20, row + 24, row + 28]);
        for at in [12, 16, 20, 24].into_iter().chain(of_section) {
            for value in [0u32, 1, 5, 4095, 4096, 0x7FFF_FFFF, 0xFFFF_FFFF] {
                let mut bytes = sound.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                if bytes == sound {
                    continue;
                }
                seal(&mut bytes);
                std::fs::write(&built.path, &bytes).expect("written");
                let verified = verify(&built.path, |_| ()).map_err(|error| message_naming(&built.path, &error));
                let used = [Residency::Memory, Residency::Ssd].map(|residency| use_it(&built.path, residency));
                let noticed = verified.is_err() || used.iter().any(Result::is_err);
                assert!(noticed, "{}: {value} at byte {at} went unnoticed", built.report.index);
            }
        }
    }
}

#[test]
fn a_missing_or_foreign_section_is_named() {
    for built in indexes() {
        let sound = built.bytes();
        let table: Vec<&str> = sections(&built.path).iter().map(|(name, _)| *name).collect();
        for (row, name) in table.iter().enumerate() {
            let mut bytes = sound.clone();
            // Reserved in this version, and so unknown to its readers.
            bytes[32 + 32 * row..36 + 32 * row].copy_from_slice(&99u32.to_le_bytes());
            seal(&mut bytes);
            std::fs::write(&built.path, &bytes).expect("written");
            assert!(refused(&built.path).contains("unknown section 99"));
            // Named twice, so that the one it was is missing.
            let other = 32 + 32 * ((row + 1) % table.len());
            bytes.copy_within(other..other + 32, 32 + 32 * row);
            seal(&mut bytes);
            std::fs::write(&built.path, &bytes).expect("written");
            let found: Vec<String> =
                [Residency::Memory, Residency::Ssd].into_iter().filter_map(|r| use_it(&built.path, r).err()).collect();
            assert!(found.iter().any(|message| message.contains(name)), "{name}: {found:?}");
        }
    }
}
