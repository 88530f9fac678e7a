// SPDX-License-Identifier: Apache-2.0
//! Reading a spec from JSON and writing it, with errors that name the field.

use crate::{SpecError, VmSpec};

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
                "." => DocumentError::shape(&error.inner().to_string()),
                _ => DocumentError::shape(&format!("{field}: {}", error.inner())),
            }
        })?;
        json.end()
            .map_err(|error| DocumentError::shape(&error.to_string()))?;
        Ok(spec)
    }

    /// Writes it as a JSON document.
    ///
    /// # Errors
    /// A document is text, and the path of the kernel or the initrd is not.
    pub fn to_json(&self) -> Result<Vec<u8>, SpecError> {
        let paths = [
            ("kernel", Some(&self.kernel)),
            ("initrd", self.initrd.as_ref()),
        ];
        for (field, path) in paths {
            if let Some(path) = path.filter(|path| path.to_str().is_none()) {
                let reason =
                    "is not UTF-8, as a document's text is: rename the file, or link to it";
                return Err(SpecError::new(field, path.display(), reason));
            }
        }
        serde_json::to_vec(self).map_err(|error| SpecError::new("config", "", error))
    }
}

impl DocumentError {
    /// An error whose text may repeat parts of the document, which can hold anything: escapes
    /// characters that would end the line or control a terminal.
    fn shape(text: &str) -> Self {
        let escaped = text.chars().map(|c| match c.is_control() {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        });
        Self::Shape(escaped.collect())
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
            (r#"{"a\n\u001b[2J":1}"#, r"a\n\u{1b}[2J"),
            (r#"{"kernel":"/k","console":"\n"}"#, "console: "),
            ("", "line 1"),
        ] {
            let error = VmSpec::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn document_endless_is_refused() {
        let text = vec![b' '; DOCUMENT_MAX_BYTES + 1];
        assert!(VmSpec::from_json(&text).is_err());
    }
}
