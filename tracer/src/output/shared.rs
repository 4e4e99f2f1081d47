//! What many records have in common, held once, and written as JSON once: of a hop's JSON the names of its place are
//! the larger part.

use std::{
    borrow::Cow,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// A part that is in many records; in JSON the part itself. To clone it copies nothing.
#[derive(Debug)]
pub struct Shared<T>(Arc<Part<T>>);

#[derive(Debug)]
struct Part<T> {
    value: T,
    /// What it is in JSON, once that was asked for; `None`: it is to be written anew each time.
    json: Option<OnceLock<Option<Box<RawValue>>>>,
}

impl<T> Shared<T> {
    /// For many records.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Part { value, json: Some(OnceLock::new()) }))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Part { value, json } = &*self.0;
        let written =
            json.as_ref().and_then(|json| json.get_or_init(|| to_raw_value(value).ok()).as_ref());
        match written {
            Some(json) => json.serialize(serializer),
            None => value.serialize(serializer),
        }
    }
}

/// Read from a file it is in one record.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = T::deserialize(deserializer)?;
        Ok(Self(Arc::new(Part { value, json: None })))
    }
}

impl<T: JsonSchema> JsonSchema for Shared<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_the_part_itself_whether_it_was_made_or_read() {
        let made = Shared::new(vec!["a \"name\"".to_owned()]);

        let text = serde_json::to_string(&[&made, &made]).unwrap();

        assert_eq!(text, r#"[["a \"name\""],["a \"name\""]]"#);
        let read: Vec<Shared<Vec<String>>> = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(serde_json::to_value(&made).unwrap(), serde_json::json!(["a \"name\""]));
    }
}
