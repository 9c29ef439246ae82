//! redb as its users have it: a table for each tree, a transaction for each call, durable at once, one writer at a
//! time.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Step, Subject, TREES, Writer, keys, records};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(crate) struct Redb(Database);

fn table(tree: usize) -> Table {
    TableDefinition::new(TREES[tree])
}

impl Redb {
    pub(crate) fn open(dir: &Path) -> Self {
        let database = Database::create(dir.join("redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        (0..TREES.len()).for_each(|tree| drop(transaction.open_table(table(tree)).unwrap()));
        transaction.commit().unwrap();
        Self(database)
    }
}

impl Subject for Redb {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(&self.0)
    }

    fn load(&self) -> usize {
        let transaction = self.0.begin_read().unwrap();
        let mut all = Vec::new();
        for tree in 0..TREES.len() {
            for entry in transaction.open_table(table(tree)).unwrap().iter().unwrap() {
                let (key, value) = entry.unwrap();
                all.push((key.value().to_vec(), value.value().to_vec()));
            }
        }
        all.len()
    }
}

impl Writer for &Database {
    fn apply(&mut self, steps: &[Step]) {
        let transaction = self.begin_write().unwrap();
        {
            let mut tables = [0, 1, 2].map(|tree| transaction.open_table(table(tree)).unwrap());
            for step in steps {
                match step {
                    Step::Put(number) => {
                        for record in records(*number) {
                            tables[record.tree].insert(&*record.key, &*record.value).unwrap();
                        }
                    }
                    Step::Delete(number) => {
                        for (tree, key) in keys(*number).into_iter().enumerate() {
                            tables[tree].remove(&*key).unwrap();
                        }
                    }
                }
            }
        }
        transaction.commit().unwrap();
    }
}
