// SPDX-License-Identifier: Apache-2.0
//! Reading the spec.

use std::io::{self, Read};
use std::path::Path;

use host::file::open_regular;
use spec::{DOCUMENT_MAX_BYTES, DocumentError, VmSpec};

/// The spec could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file could not be read.
    #[error("config {path:?}")]
    Read {
        /// The file.
        path: String,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The file holds no spec.
    #[error("config {path:?}")]
    Document {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
}

/// Reads the spec from a JSON file.
pub(crate) fn read(path: &Path) -> Result<VmSpec, ConfigError> {
    let named = || path.display().to_string();
    let mut text = Vec::new();
    open_regular(path)
        .and_then(|file| {
            // One byte more than the limit, so that too much is noticed.
            let limit = DOCUMENT_MAX_BYTES as u64 + 1;
            file.take(limit).read_to_end(&mut text)
        })
        .map_err(|source| ConfigError::Read {
            path: named(),
            source,
        })?;
    VmSpec::from_json(&text).map_err(|source| ConfigError::Document {
        path: named(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::log::chain;

    #[test]
    fn config_bad_names_file_and_field() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vm.json");
        std::fs::write(&file, r#"{"kernel":"/k","cpus":"two"}"#).unwrap();
        let line = chain(&read(&file).unwrap_err());
        assert!(line.contains("vm.json\": cpus: invalid type"), "{line}");
    }

    #[test]
    fn config_missing_or_endless_is_refused() {
        for path in ["/nonexistent", "/dev/zero", "/"] {
            let line = chain(&read(Path::new(path)).unwrap_err());
            assert!(line.starts_with(&format!("config {path:?}: ")), "{line}");
        }
    }
}
