// SPDX-License-Identifier: Apache-2.0
//! Reading a spec from JSON, with errors that name the field.

use crate::VmSpec;

/// The longest document that is read, in bytes.
pub const DOCUMENT_MAX_BYTES: usize = 1 << 20;

/// A document is not a spec. One line: the field, if it is one field's fault, and what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not JSON, or not of the right shape.
    #[error("{0}")]
    Shape(String),
    /// It is longer than [`DOCUMENT_MAX_BYTES`].
    #[error("is longer than {DOCUMENT_MAX_BYTES} bytes")]
    TooLong,
}

impl VmSpec {
    /// Reads a spec from a JSON document.
    pub fn from_json(text: &[u8]) -> Result<Self, DocumentError> {
        if text.len() > DOCUMENT_MAX_BYTES {
            return Err(DocumentError::TooLong);
        }
        let mut json = serde_json::Deserializer::from_slice(text);
        let spec = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = error.path().to_string();
            match field.as_str() {
                "." => DocumentError::Shape(error.inner().to_string()),
                _ => DocumentError::Shape(format!("{field}: {}", error.inner())),
            }
        })?;
        json.end()
            .map_err(|error| DocumentError::Shape(error.to_string()))?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_malformed_names_the_field_on_one_line() {
        for (text, named) in [
            (r#"{"kernel":"/k","cpu":2}"#, "cpu"),
            (r#"{"kernel":"/k","cpus":"two"}"#, "cpus: "),
            (r#"{"kernel":"/k","mem":"12Q"}"#, "mem: "),
            (r#"{"kernel":"/k","console":"tty"}"#, "console: "),
            (r#"{"kernel":"/k","hugepages":"3M"}"#, "hugepages: "),
            (r#"{"cpus":2}"#, "kernel"),
            (r#"{"kernel":"/k"} x"#, "line 1"),
            ("", "line 1"),
        ] {
            let error = VmSpec::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn document_endless_is_refused() {
        let text = vec![b' '; DOCUMENT_MAX_BYTES + 1];
        assert!(VmSpec::from_json(&text).is_err());
    }
}
