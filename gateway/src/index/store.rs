//! The database file: tables, and the one way in which they change.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use haltline_common::types::{Timestamp, record::Status};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

use super::{Place, Summary};

/// Another number makes files of before be built anew.
const LAYOUT: u64 = 1;
/// Pages kept in memory; the rest is the system's to keep.
const CACHE_BYTES: usize = 32 << 20;
/// Characters of error and reason kept in a summary; the record has all of it.
const TEXT_MAX: usize = 300;
/// Executions at most, at about 900 bytes each; the oldest leave first and stay readable by id.
const ROWS_MAX: u64 = 5_000_000;
/// Removed in one transaction: what is listed must not wait for a large one.
const SWEEP_MAX: usize = 10_000;

/// What is kept of an execution, by its place.
pub(super) const ROWS: TableDefinition<u128, &[u8]> = TableDefinition::new("rows");
/// The place of an execution, by its id.
pub(super) const IDS: TableDefinition<&str, u128> = TableDefinition::new("ids");
/// The places of all executions of a list: of a workflow, a bot, a strategy, a status.
pub(super) const LISTS: TableDefinition<(u32, u128), ()> = TableDefinition::new("lists");
/// The number of a list, by field and value.
pub(super) const NUMBERS: TableDefinition<(u8, &str), u32> = TableDefinition::new("numbers");
/// How many are on a list.
pub(super) const SIZES: TableDefinition<u32, u64> = TableDefinition::new("sizes");
const META: TableDefinition<&str, &str> = TableDefinition::new("meta");

/// Fields that have lists.
pub(super) const WORKFLOW: u8 = 0;
pub(super) const BOT: u8 = 1;
pub(super) const STRATEGY: u8 = 2;
pub(super) const STATUS: u8 = 3;

/// A change to take in.
#[derive(Debug)]
pub enum Change {
    /// A record's newest state.
    Put(Box<Summary>),
    /// An execution is gone.
    Gone(String),
    /// All of it is of another stream: forget everything.
    Clear(String),
}

/// Up to where the stream was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Which stream: when it was made.
    pub epoch: String,
    /// Its last sequence taken in.
    pub seq: u64,
}

/// A summary as it is stored: short names, and nothing that is empty.
#[derive(Serialize, Deserialize)]
struct Row<'a> {
    i: &'a str,
    w: &'a str,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    b: &'a str,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    g: &'a str,
    s: Status,
    v: &'a str,
    n: [u32; 4],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    f: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    d: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    k: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<String>,
}

impl<'a> Row<'a> {
    fn of(s: &'a Summary) -> Self {
        let short = |text: &Option<String>| {
            text.as_ref().map(|t| match t.char_indices().nth(TEXT_MAX) {
                Some((at, _)) => format!("{}…", &t[..at]),
                None => t.clone(),
            })
        };
        Self {
            i: &s.execution_id,
            w: &s.workflow_id,
            b: &s.bot_id,
            g: &s.strategy_id,
            s: s.status,
            v: &s.workflow_version,
            n: [s.node_count, s.nodes_completed, s.nodes_failed, s.nodes_skipped],
            f: s.finished_at.map(|t| t.0),
            d: s.duration_ms,
            e: short(&s.error),
            k: s.error_type.clone(),
            o: s.failed_node.clone(),
            r: short(&s.reason),
        }
    }
}

/// Reads a row.
pub(super) fn summary(place: Place, bytes: &[u8]) -> Option<Summary> {
    #[derive(Deserialize)]
    struct Owned {
        i: String,
        w: String,
        #[serde(default)]
        b: String,
        #[serde(default)]
        g: String,
        s: Status,
        v: String,
        n: [u32; 4],
        f: Option<i64>,
        d: Option<f64>,
        e: Option<String>,
        k: Option<String>,
        o: Option<String>,
        r: Option<String>,
    }
    let row: Owned = serde_json::from_slice(bytes).ok()?;
    let [node_count, nodes_completed, nodes_failed, nodes_skipped] = row.n;
    Some(Summary {
        execution_id: row.i,
        workflow_id: row.w,
        bot_id: row.b,
        strategy_id: row.g,
        status: row.s,
        workflow_version: row.v,
        node_count,
        nodes_completed,
        nodes_failed,
        nodes_skipped,
        started_at: Timestamp(place.started),
        finished_at: row.f.map(Timestamp),
        duration_ms: row.d,
        error: row.e,
        error_type: row.k,
        failed_node: row.o,
        reason: row.r,
    })
}

/// The file.
pub struct Store {
    pub(super) db: Database,
}

impl Store {
    /// Opens the file, or makes it; one that cannot be used is made anew. An empty path gives one that
    /// is gone when this process ends, however it ends.
    ///
    /// # Errors
    /// When another process has it open, or there can be no file.
    pub fn open(path: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Self::nameless();
        }
        if let Some(folder) = Path::new(path).parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        let broken = match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Ok(db) => {
                let store = Self { db };
                match store.prepare() {
                    Ok(()) => return Ok(store),
                    Err(e) => e.to_string(),
                }
            }
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err("another gateway has it open: give each its own".into()),
            Err(e) => e.to_string(),
        };
        tracing::warn!(path, reason = broken, "the list of executions cannot be used; it is built anew");
        std::fs::remove_file(path).map_err(|e| format!("cannot be removed: {e}"))?;
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|e| e.to_string())?;
        let store = Self { db };
        store.prepare().map_err(|e| e.to_string())?;
        Ok(store)
    }

    fn nameless() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("haltline-index-{}", uuid::Uuid::new_v4()));
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        // It stays open; its name goes now, so that nothing is left behind by a kill.
        std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let store = Self { db };
        store.prepare().map_err(|e| e.to_string())?;
        Ok(store)
    }

    /// Makes all tables, and forgets what another layout left.
    fn prepare(&self) -> Result<(), redb::Error> {
        let current = {
            let read = self.db.begin_read()?;
            match read.open_table(META) {
                Ok(meta) => meta.get("layout")?.is_some_and(|l| l.value() == LAYOUT.to_string()),
                Err(TableError::TableDoesNotExist(_)) => false,
                Err(e) => return Err(e.into()),
            }
        };
        if current {
            return Ok(());
        }
        self.clear("")
    }

    fn clear(&self, epoch: &str) -> Result<(), redb::Error> {
        let write = self.db.begin_write()?;
        for table in write.list_tables()?.collect::<Vec<_>>() {
            write.delete_table(table)?;
        }
        write.open_table(ROWS)?;
        write.open_table(IDS)?;
        write.open_table(LISTS)?;
        write.open_table(NUMBERS)?;
        write.open_table(SIZES)?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("layout", LAYOUT.to_string().as_str())?;
            meta.insert("epoch", epoch)?;
            meta.insert("seq", "0")?;
        }
        write.commit()?;
        Ok(())
    }

    /// How many executions there are.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn len(&self) -> Result<u64, redb::Error> {
        Ok(self.db.begin_read()?.open_table(IDS)?.len()?)
    }

    /// Whether there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_empty(&self) -> Result<bool, redb::Error> {
        self.len().map(|n| n == 0)
    }

    /// Up to where the stream was read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn mark(&self) -> Result<Mark, redb::Error> {
        let meta = self.db.begin_read()?.open_table(META)?;
        let text = |key: &str| Ok::<_, redb::Error>(meta.get(key)?.map(|v| v.value().to_owned()).unwrap_or_default());
        Ok(Mark { epoch: text("epoch")?, seq: text("seq")?.parse().unwrap_or(0) })
    }

    /// How many there are of each status.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn counts(&self) -> Result<BTreeMap<&'static str, u64>, redb::Error> {
        let read = self.db.begin_read()?;
        let (numbers, sizes) = (read.open_table(NUMBERS)?, read.open_table(SIZES)?);
        let mut counts = BTreeMap::new();
        for status in Status::ALL {
            let size = match numbers.get((STATUS, status.as_str()))? {
                Some(number) => sizes.get(number.value())?.map_or(0, |n| n.value()),
                None => 0,
            };
            counts.insert(status.as_str(), size);
        }
        Ok(counts)
    }

    /// Takes changes in, up to sequence `seq` of the stream. What was taken in since the last time with
    /// `sync` may be lost by a crash: it is read again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn apply(&self, changes: Vec<Change>, seq: Option<u64>, sync: bool) -> Result<u64, redb::Error> {
        let mut write = self.db.begin_write()?;
        write.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
        let mut cleared = None;
        let len = {
            let mut tables = Tables::open(&write)?;
            for change in changes {
                match change {
                    Change::Put(s) => tables.put(&s)?,
                    Change::Gone(id) => tables.remove(&id)?,
                    Change::Clear(epoch) => {
                        tables.clear()?;
                        cleared = Some(epoch);
                    }
                }
            }
            while tables.ids.len()? > ROWS_MAX {
                let oldest = tables.rows.first()?.map(|(place, row)| (place.value(), row.value().to_vec()));
                let Some((place, row)) = oldest else { break };
                let Some(s) = summary(Place::from_key(place), &row) else { break };
                tables.remove(&s.execution_id)?;
            }
            tables.flush()?;
            tables.ids.len()?
        };
        {
            let mut meta = write.open_table(META)?;
            if let Some(epoch) = cleared {
                meta.insert("epoch", epoch.as_str())?;
            }
            if let Some(seq) = seq {
                meta.insert("seq", seq.to_string().as_str())?;
            }
        }
        write.commit()?;
        Ok(len)
    }

    /// Removes what ended before `ended`: the stream has dropped it without a word. Whether there may be
    /// more.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn expire(&self, ended: Timestamp) -> Result<bool, redb::Error> {
        let mut gone = Vec::new();
        {
            let rows = self.db.begin_read()?.open_table(ROWS)?;
            // What was started after it has not ended before it.
            for entry in rows.range(..Place { started: ended.0, tie: 0 }.key())? {
                let (place, row) = entry?;
                let row = summary(Place::from_key(place.value()), row.value());
                if let Some(s) = row.filter(|s| s.finished_at.is_some_and(|at| at < ended)) {
                    gone.push(Change::Gone(s.execution_id));
                }
                if gone.len() >= SWEEP_MAX {
                    break;
                }
            }
        }
        let more = gone.len() >= SWEEP_MAX;
        if !gone.is_empty() {
            self.apply(gone, None, false)?;
        }
        Ok(more)
    }
}

/// The tables of a transaction.
struct Tables<'t> {
    rows: Table<'t, u128, &'static [u8]>,
    ids: Table<'t, &'static str, u128>,
    lists: Table<'t, (u32, u128), ()>,
    numbers: Table<'t, (u8, &'static str), u32>,
    sizes: Table<'t, u32, u64>,
    /// What was asked for already.
    known: HashMap<(u8, String), u32>,
    /// What the sizes change by.
    grown: HashMap<u32, i64>,
}

impl<'t> Tables<'t> {
    fn open(write: &'t redb::WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            rows: write.open_table(ROWS)?,
            ids: write.open_table(IDS)?,
            lists: write.open_table(LISTS)?,
            numbers: write.open_table(NUMBERS)?,
            sizes: write.open_table(SIZES)?,
            known: HashMap::new(),
            grown: HashMap::new(),
        })
    }

    fn put(&mut self, s: &Summary) -> Result<(), redb::Error> {
        let place = Place::of(s.started_at, &s.execution_id).key();
        let before = self.ids.insert(s.execution_id.as_str(), place)?.map(|p| p.value());
        let old = match before {
            Some(before) => self.row(before)?,
            None => None,
        };
        if let Some(before) = before.filter(|b| *b != place) {
            self.rows.remove(before)?;
        }
        let row = serde_json::to_vec(&Row::of(s)).unwrap_or_default();
        self.rows.insert(place, row.as_slice())?;
        for (field, new) in fields(s) {
            let had = old.as_ref().map(|old| (fields(old)[usize::from(field)].1.to_owned(), before.unwrap_or(place)));
            if had.as_ref().is_some_and(|(value, at)| value == new && *at == place) {
                continue; // nearly always: what changes is the status
            }
            if let Some((value, at)) = had {
                self.unlist(field, &value, at)?;
            }
            self.list(field, new, place)?;
        }
        Ok(())
    }

    fn remove(&mut self, id: &str) -> Result<(), redb::Error> {
        let Some(place) = self.ids.remove(id)?.map(|p| p.value()) else { return Ok(()) };
        if let Some(old) = self.row(place)? {
            for (field, value) in fields(&old) {
                self.unlist(field, value, place)?;
            }
        }
        self.rows.remove(place)?;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), redb::Error> {
        self.rows.retain(|_, _| false)?;
        self.ids.retain(|_, _| false)?;
        self.lists.retain(|_, ()| false)?;
        self.numbers.retain(|_, _| false)?;
        self.sizes.retain(|_, _| false)?;
        self.known.clear();
        self.grown.clear();
        Ok(())
    }

    fn row(&self, place: u128) -> Result<Option<Summary>, redb::Error> {
        Ok(self.rows.get(place)?.and_then(|row| summary(Place::from_key(place), row.value())))
    }

    fn list(&mut self, field: u8, value: &str, place: u128) -> Result<(), redb::Error> {
        let number = self.number(field, value)?;
        if self.lists.insert((number, place), ())?.is_none() {
            *self.grown.entry(number).or_default() += 1;
        }
        Ok(())
    }

    fn unlist(&mut self, field: u8, value: &str, place: u128) -> Result<(), redb::Error> {
        let number = self.number(field, value)?;
        if self.lists.remove((number, place))?.is_some() {
            *self.grown.entry(number).or_default() -= 1;
        }
        Ok(())
    }

    fn number(&mut self, field: u8, value: &str) -> Result<u32, redb::Error> {
        if let Some(number) = self.known.get(&(field, value.to_owned())) {
            return Ok(*number);
        }
        let stored = self.numbers.get((field, value))?.map(|n| n.value());
        let number = match stored {
            Some(number) => number,
            None => {
                // Never removed, so never given twice.
                let next = u32::try_from(self.numbers.len()?).unwrap_or(u32::MAX);
                self.numbers.insert((field, value), next)?;
                next
            }
        };
        self.known.insert((field, value.to_owned()), number);
        Ok(number)
    }

    fn flush(&mut self) -> Result<(), redb::Error> {
        for (number, by) in self.grown.drain().filter(|(_, by)| *by != 0) {
            let size = self.sizes.get(number)?.map_or(0, |n| n.value());
            self.sizes.insert(number, size.saturating_add_signed(by))?;
        }
        Ok(())
    }
}

/// The lists that an execution is on.
fn fields(s: &Summary) -> [(u8, &str); 4] {
    [(WORKFLOW, &s.workflow_id), (BOT, &s.bot_id), (STRATEGY, &s.strategy_id), (STATUS, s.status.as_str())]
}
