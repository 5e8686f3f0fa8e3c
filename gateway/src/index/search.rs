//! Finding a page: each filter is a set of sorted lists, and the page is where they all meet. The
//! search jumps from list to list to the next place where they can (a zigzag join), so that nothing is
//! scanned that one filter already rules out; what it looks at for one page is bounded.

use redb::{ReadOnlyTable, ReadableDatabase};

use super::{
    Cursor, Found, Order, Page, Place, Summary, Wanted,
    store::{BOT, IDS, LISTS, NUMBERS, ROWS, SIZES, STATUS, STRATEGY, Store, WORKFLOW, summary},
};

/// Looks into lists for one page, 1 to 2 microseconds each.
const LOOKS_MAX: usize = 8000;
/// Rows read for one page in the order of ids: each is parsed.
const READS_MAX: usize = 4000;

/// A filter: the lists of its values, of which one has to have a place.
type Filter = Vec<u32>;

impl Store {
    /// A page of what matches.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self, wanted: &Wanted, page: &Page) -> Result<Found, redb::Error> {
        let read = self.db.begin_read()?;
        let rows = read.open_table(ROWS)?;
        if let Some(prefix) = &wanted.id {
            return by_id(&read.open_table(IDS)?, &rows, prefix, wanted, page);
        }
        let Some(mut range) = Range::of(wanted, page) else { return Ok(Found::default()) };
        let Some(filters) = filters(&read.open_table(NUMBERS)?, &read.open_table(SIZES)?, wanted)? else { return Ok(Found::default()) };
        let lists = read.open_table(LISTS)?;
        let mut found = Found::default();
        let mut looks = 0;
        while let Some(at) = range.next {
            if looks >= LOOKS_MAX || found.rows.len() >= page.limit {
                found.next = Some(Cursor::Place(Place::from_key(range.before(at))));
                break;
            }
            let Some(place) = meet(&lists, &rows, &filters, &range, at, &mut looks)? else { break };
            match place {
                Met::Here(place) => {
                    let row = rows.get(place)?.and_then(|row| summary(Place::from_key(place), row.value()));
                    found.rows.extend(row);
                    range.pass(place);
                }
                Met::NotBefore(place) => range.next = Some(place),
            }
        }
        Ok(found)
    }
}

/// Executions looked at for one picture: each is parsed.
const NEWEST_READS_MAX: usize = 20_000;
/// Pages read for it, should most of them be empty.
const NEWEST_PAGES_MAX: usize = 200;

impl Store {
    /// Up to `limit` of what `wanted` and `wants` want, started last first, and whether there may be more.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn newest(&self, wanted: &Wanted, wants: impl Fn(&Summary) -> bool, limit: usize) -> Result<(Vec<Summary>, bool), redb::Error> {
        let (mut found, mut after, mut reads) = (Vec::new(), None, 0);
        for _ in 0..NEWEST_PAGES_MAX {
            let page = self.list(wanted, &Page { limit: 500, order: Order::Newest, after })?;
            reads += page.rows.len();
            for row in page.rows.into_iter().filter(&wants) {
                if found.len() == limit {
                    return Ok((found, true));
                }
                found.push(row);
            }
            after = page.next;
            if after.is_none() {
                return Ok((found, false));
            }
            if reads >= NEWEST_READS_MAX {
                break;
            }
        }
        Ok((found, true))
    }
}

/// Places to look at: a stretch of them, in the order asked for.
struct Range {
    order: Order,
    /// The first place to look at, if any is left.
    next: Option<u128>,
    /// The last one.
    end: u128,
}

impl Range {
    fn of(wanted: &Wanted, page: &Page) -> Option<Self> {
        let first = |started: i64| Place { started, tie: 0 }.key();
        let mut low = wanted.since.map_or(0, |t| first(t.0));
        let mut high = match wanted.until {
            Some(t) => first(t.0).checked_sub(1)?,
            None => u128::MAX,
        };
        if let Some(Cursor::Place(after)) = &page.after {
            match page.order {
                Order::Newest => high = high.min(after.key().checked_sub(1)?),
                Order::Oldest => low = low.max(after.key().checked_add(1)?),
            }
        }
        if low > high {
            return None;
        }
        let (next, end) = if page.order == Order::Newest { (high, low) } else { (low, high) };
        Some(Self { order: page.order, next: Some(next), end })
    }

    /// Goes on behind `place`.
    fn pass(&mut self, place: u128) {
        self.next = match self.order {
            _ if place == self.end => None,
            Order::Newest => place.checked_sub(1),
            Order::Oldest => place.checked_add(1),
        };
    }

    /// The place before `at`, for a cursor that leads to `at`.
    fn before(&self, at: u128) -> u128 {
        match self.order {
            Order::Newest => at.saturating_add(1),
            Order::Oldest => at.saturating_sub(1),
        }
    }

    /// Whichever comes first.
    fn nearer(&self, a: u128, b: u128) -> u128 {
        if self.order == Order::Newest { a.max(b) } else { a.min(b) }
    }
}

/// The filters' lists, the shortest filter first; `None` if one of them has none.
fn filters(
    numbers: &ReadOnlyTable<(u8, &'static str), u32>,
    sizes: &ReadOnlyTable<u32, u64>,
    wanted: &Wanted,
) -> Result<Option<Vec<Filter>>, redb::Error> {
    let texts = |values: &[String]| values.to_vec();
    let statuses: Vec<String> = wanted.statuses.iter().map(|s| s.as_str().to_owned()).collect();
    let fields =
        [(WORKFLOW, texts(&wanted.workflows)), (BOT, texts(&wanted.bots)), (STRATEGY, texts(&wanted.strategies)), (STATUS, statuses)];
    let mut found: Vec<(u64, Filter)> = Vec::new();
    for (field, values) in fields {
        if values.is_empty() {
            continue;
        }
        let (mut lists, mut size) = (Filter::new(), 0);
        for value in &values {
            if let Some(number) = numbers.get((field, value.as_str()))?.map(|n| n.value())
                && !lists.contains(&number)
            {
                size += sizes.get(number)?.map_or(0, |n| n.value());
                lists.push(number);
            }
        }
        if size == 0 {
            return Ok(None);
        }
        found.push((size, lists));
    }
    found.sort_by_key(|(size, _)| *size);
    Ok(Some(found.into_iter().map(|(_, lists)| lists).collect()))
}

/// What a round over all filters came to.
enum Met {
    /// All of them have this place.
    Here(u128),
    /// None of the places before this one is in all of them.
    NotBefore(u128),
}

/// One round from `at` on; `None` if there is nothing any more.
fn meet(
    lists: &ReadOnlyTable<(u32, u128), ()>,
    rows: &ReadOnlyTable<u128, &'static [u8]>,
    filters: &[Filter],
    range: &Range,
    at: u128,
    looks: &mut usize,
) -> Result<Option<Met>, redb::Error> {
    if filters.is_empty() {
        *looks += 1;
        let next = match range.order {
            Order::Newest => rows.range(range.end..=at)?.next_back(),
            Order::Oldest => rows.range(at..=range.end)?.next(),
        };
        return Ok(next.transpose()?.map(|(place, _)| Met::Here(place.value())));
    }
    let mut place = at;
    for (n, filter) in filters.iter().enumerate() {
        let mut nearest: Option<u128> = None;
        for list in filter {
            *looks += 1;
            let next = match range.order {
                Order::Newest => lists.range((*list, range.end)..=(*list, place))?.next_back(),
                Order::Oldest => lists.range((*list, place)..=(*list, range.end))?.next(),
            };
            if let Some((key, _)) = next.transpose()? {
                let found = key.value().1;
                nearest = Some(nearest.map_or(found, |other| range.nearer(other, found)));
            }
        }
        match nearest {
            None => return Ok(None),
            // The first filter may move on; whoever disagrees with it sends everyone on.
            Some(found) if found != place && n > 0 => return Ok(Some(Met::NotBefore(found))),
            Some(found) => place = found,
        }
    }
    Ok(Some(Met::Here(place)))
}

/// In the order of ids, from those that begin with `prefix`.
fn by_id(
    ids: &ReadOnlyTable<&'static str, u128>,
    rows: &ReadOnlyTable<u128, &'static [u8]>,
    prefix: &str,
    wanted: &Wanted,
    page: &Page,
) -> Result<Found, redb::Error> {
    let after = match &page.after {
        Some(Cursor::Id(id)) if id.as_str() > prefix => Some(id.as_str()),
        _ => None,
    };
    let mut found = Found::default();
    let mut last: Option<String> = None;
    let mut reads = 0;
    for entry in ids.range(after.unwrap_or(prefix)..)? {
        let (id, place) = entry?;
        let (id, place) = (id.value(), place.value());
        if !id.starts_with(prefix) {
            return Ok(found);
        }
        if after == Some(id) {
            continue;
        }
        if reads >= READS_MAX || found.rows.len() >= page.limit {
            found.next = last.map(Cursor::Id);
            return Ok(found);
        }
        reads += 1;
        let row = rows.get(place)?.and_then(|row| summary(Place::from_key(place), row.value()));
        found.rows.extend(row.filter(|s: &Summary| wanted.matches(s)));
        last = Some(id.to_owned());
    }
    Ok(found)
}
