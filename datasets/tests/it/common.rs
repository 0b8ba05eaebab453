//! What the integration tests share.

use std::path::Path;

use kiln_datasets::{Dataset, DatasetError};

/// The message of an error, which must name the file.
pub fn message_naming(path: &Path, error: DatasetError) -> String {
    let message = error.to_string();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(name), "{message:?} does not name {name}");
    message
}

/// The message with which a file is refused.
pub fn refusal(path: &Path) -> String {
    match Dataset::open_file(path) {
        Ok(dataset) => panic!("{} was accepted: {dataset:?}", path.display()),
        Err(error) => message_naming(path, error),
    }
}
