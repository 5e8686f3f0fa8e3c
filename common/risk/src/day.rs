//! Days in a time zone: when the day of an instant began.

use haltline_types::Timestamp;
use jiff::tz::TimeZone;

/// A zone by its name in the zone database, as `Europe/Berlin` or `UTC`. The database is part of the program, so that all
/// processes of one version agree about it.
///
/// # Errors
/// When there is no such zone.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| format!("`{name}` is no time zone: write one as Europe/Berlin, America/New_York or UTC"))
}

/// The day of an instant in a zone, as `YYYY-MM-DD`. A zone that cannot be found, which no checked rule has, counts as UTC.
pub fn day(at: Timestamp, zone_name: &str) -> String {
    let zone = zone(zone_name).unwrap_or(TimeZone::UTC);
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(t) => t.to_zoned(zone).date().to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_begin_where_the_zone_says() {
        let at = |text: &str| Timestamp::parse(text).expect(text);
        for (text, zone, expected) in [
            ("2026-11-23T23:30:00Z", "UTC", "2026-11-23"),
            ("2026-11-23T23:30:00Z", "Europe/Berlin", "2026-11-24"),
            ("2026-11-23T23:30:00Z", "America/New_York", "2026-11-23"),
            // Summer time: midnight in Berlin is at 22:00 UTC then.
            ("2026-07-01T22:00:00Z", "Europe/Berlin", "2026-07-02"),
            ("2026-07-01T21:59:59.999Z", "Europe/Berlin", "2026-07-01"),
            ("2026-01-01T22:30:00Z", "Europe/Berlin", "2026-01-01"),
        ] {
            assert_eq!(day(at(text), zone), expected, "{text} {zone}");
        }
        assert!(zone("Mars/Olympus").is_err());
    }
}
