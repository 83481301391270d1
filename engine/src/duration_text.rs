//! Durations in the serde form of options: as text, `"100ms"`, `"1m 30s"`.

use std::{fmt, time::Duration};

use serde::{Deserializer, Serializer, de};

const EXPECTED: &str = "a duration as text with a unit, such as \"100ms\" or \"1m 30s\"";

pub(crate) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            let expected =
                |cause| E::custom(format!("expected {EXPECTED}, found {text:?}: {cause}"));
            humantime::parse_duration(text).map_err(expected)
        }
    }

    deserializer.deserialize_str(Text)
}
