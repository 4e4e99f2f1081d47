//! What a point told beyond its place and time, by key: `detail` of a hop. Most of a record's values are these, so
//! what is known when pathtrace is built is borrowed, not copied.

use std::{borrow::Cow, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Facts by key, in the order in which they were told; in JSON an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(Vec<(Cow<'static, str>, Fact)>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// A name or an address.
    Text(Cow<'static, str>),
    /// A number, a mark, ns.
    Number(u64),
    /// That it is so.
    Flag(bool),
    /// Names of bits.
    Names(Vec<&'static str>),
    /// What belongs together.
    Facts(Facts),
    /// As it was read from a file, where it is none of these.
    Other(Value),
}

impl Facts {
    /// The fact of a key.
    pub fn get(&self, key: &str) -> Option<&Fact> {
        self.0.iter().find_map(|(known, fact)| (known == key).then_some(fact))
    }

    /// Adds one whose key is not there yet.
    pub fn put(&mut self, key: &'static str, fact: impl Into<Fact>) {
        if self.0.is_empty() {
            // More than most have: one allocation.
            self.0.reserve_exact(6);
        }
        self.0.push((Cow::Borrowed(key), fact.into()));
    }

    /// Adds one, if it is known.
    pub fn put_known(&mut self, key: &'static str, fact: Option<impl Into<Fact>>) {
        if let Some(fact) = fact {
            self.put(key, fact);
        }
    }

    /// Whether nothing was told.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Fact {
    /// The number, if it is one.
    pub fn as_number(&self) -> Option<u64> {
        match self {
            Fact::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Of what belongs together, the fact of a key.
    pub fn get(&self, key: &str) -> Option<&Fact> {
        match self {
            Fact::Facts(facts) => facts.get(key),
            _ => None,
        }
    }

    /// Those of a list; of anything else none.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (names, read): (&[&str], &[Value]) = match self {
            Fact::Names(names) => (names, &[]),
            Fact::Other(Value::Array(values)) => (&[], values),
            _ => (&[], &[]),
        };
        names.iter().copied().chain(read.iter().filter_map(Value::as_str))
    }
}

impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, fact)| (key, fact)))
    }
}

impl<'de> Deserialize<'de> for Facts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::<String, Value>::deserialize(deserializer).map(Self::from)
    }
}

impl From<Map<String, Value>> for Facts {
    fn from(map: Map<String, Value>) -> Self {
        Self(map.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl From<Value> for Fact {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Fact::Text(text.into()),
            Value::Bool(flag) => Fact::Flag(flag),
            Value::Object(map) => Fact::Facts(map.into()),
            Value::Number(number) => match number.as_u64() {
                Some(number) => Fact::Number(number),
                None => Fact::Other(number.into()),
            },
            other => Fact::Other(other),
        }
    }
}

impl From<&'static str> for Fact {
    fn from(text: &'static str) -> Self {
        Fact::Text(text.into())
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Fact::Text(text.into())
    }
}

impl From<IpAddr> for Fact {
    fn from(address: IpAddr) -> Self {
        address.to_string().into()
    }
}

impl From<bool> for Fact {
    fn from(flag: bool) -> Self {
        Fact::Flag(flag)
    }
}

impl From<Vec<&'static str>> for Fact {
    fn from(names: Vec<&'static str>) -> Self {
        Fact::Names(names)
    }
}

impl From<Facts> for Fact {
    fn from(facts: Facts) -> Self {
        Fact::Facts(facts)
    }
}

macro_rules! from_number {
    ($($kind:ty),*) => {
        $(impl From<$kind> for Fact {
            fn from(number: $kind) -> Self {
                Fact::Number(number.into())
            }
        })*
    };
}
from_number!(u16, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_as_they_were_written() {
        let mut tuple = Facts::default();
        tuple.put("src", IpAddr::from([192, 0, 2, 1]));
        tuple.put("sport", 53_u16);
        let mut facts = Facts::default();
        facts.put("state", "new");
        facts.put("mark", u64::MAX);
        facts.put("bridged", true);
        facts.put("original", tuple);
        facts.put_known("zone", None::<u64>);

        let text = serde_json::to_string(&facts).unwrap();

        let expected = r#"{"state":"new","mark":18446744073709551615,"bridged":true,"original":{"src":"192.0.2.1","sport":53}}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }

    #[test]
    fn what_is_none_of_ours_stays_what_it_is() {
        let text = r#"{"a":-1,"b":null,"c":[1,"x"],"d":1.5,"status":["confirmed","dst_nat"]}"#;
        let facts: Facts = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&facts).unwrap(), text);
        assert!(facts.get("status").unwrap().names().eq(["confirmed", "dst_nat"]));
    }
}
