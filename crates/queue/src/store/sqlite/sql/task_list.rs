//! Lists of tasks. Each statement reads a part of one index, the newest task first.

use std::borrow::Cow;

use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};

use super::{
    Statement, select_task,
    statement::{Value, build_sql, by_index, eq_param, param},
};
use crate::{
    TaskFilter,
    store::sqlite::schema::{Job, Task, index},
    task::TaskState,
};

/// An index that a list of tasks can be read from. In each the tasks with the same first column are
/// ordered by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskIndex {
    Id,
    State,
    Thing,
    Topic,
    /// The tasks that have a reason.
    Reason,
}

impl TaskIndex {
    fn name(self) -> &'static str {
        match self {
            Self::Id => index::TASK_ID,
            Self::State => index::TASK_STATE,
            Self::Thing => index::TASK_THING,
            Self::Topic => index::TASK_TOPIC,
            Self::Reason => index::TASK_REASON,
        }
    }
}

/// The tasks that a statement looks at: all conditions hold for each of them.
#[derive(Debug, Clone)]
pub struct TaskScan<'a> {
    /// Its states and its text are not looked at.
    pub filter: &'a TaskFilter,
    pub state: Option<TaskState>,
    /// A text that the reason contains.
    pub reason: Option<&'a str>,
    /// The lowest id, as text or a prefix of it, and the one that is too high.
    pub from: String,
    pub below: String,
}

impl TaskScan<'_> {
    /// The tasks of the scan, at most `limit`, found by an index whose first column it has a value
    /// for.
    pub fn tasks(&self, index: TaskIndex, limit: u32) -> Statement<'static> {
        let mut select = select_task();
        select.column(Task::Totals);
        let mut values = self.restrict(&mut select, index);
        let TaskScan { filter, state, reason, .. } = self;
        let mut condition = |column: Expr, value: Value<'static>| {
            select.and_where(column);
            values.push(value);
        };
        if let Some(state) = state.filter(|_| index != TaskIndex::State) {
            condition(eq_param(Task::State), state.into());
        }
        if let Some(thing) = filter.thing.filter(|_| index != TaskIndex::Thing) {
            condition(eq_param(Task::ThingId), thing.into());
        }
        if let Some(topic) = filter.topic.as_ref().filter(|_| index != TaskIndex::Topic) {
            condition(eq_param(Task::Topic), topic.clone().into());
        }
        if let Some(created) = &filter.created_ms {
            condition(Expr::col(Task::CreatedAt).gte(param()), (*created.start()).into());
            condition(Expr::col(Task::CreatedAt).lte(param()), (*created.end()).into());
        }
        if let Some(text) = reason {
            // A function and not LIKE, whose wildcards would have to be escaped.
            condition(Expr::cust_with_exprs("instr(\"reason\", ?) > 0", [param()]), (*text).to_owned().into());
        }
        if let Some(device) = filter.device {
            let of_task = Query::select()
                .expr(Expr::cust("1"))
                .from(Job::Table)
                .and_where(Expr::col((Job::Table, Job::TaskId)).equals((Task::Table, Task::Id)))
                .and_where(Expr::col((Job::Table, Job::DeviceId)).eq(param()))
                .take();
            condition(Expr::exists(of_task), device.into());
        }
        values.push(limit.into());
        let text = build_sql(&select.order_by((Task::Table, Task::Id), Order::Desc).limit(0).take());
        let text = by_index(&text, r#"FROM "task""#, index.name());
        Statement { text: Cow::Owned(by_index(&text, r#"FROM "job""#, index::JOB_TASK)), values }
    }

    /// The id that has `count` later ones in this part of the index.
    pub fn id_at_distance(&self, index: TaskIndex, count: u32) -> Statement<'static> {
        let mut select = Query::select().column(Task::Id).from(Task::Table).take();
        let mut values = self.restrict(&mut select, index);
        values.extend([1_u32.into(), count.into()]);
        let text = build_sql(&select.order_by(Task::Id, Order::Desc).limit(0).offset(0).take());
        Statement { text: Cow::Owned(by_index(&text, r#"FROM "task""#, index.name())), values }
    }

    /// Restricts a statement to the part of an index that the scan is about.
    fn restrict(&self, select: &mut SelectStatement, index: TaskIndex) -> Vec<Value<'static>> {
        let mut values: Vec<Value<'static>> = Vec::new();
        match index {
            TaskIndex::Id => {}
            TaskIndex::State => {
                select.and_where(eq_param(Task::State));
                values.push(self.state.into());
            }
            TaskIndex::Thing => {
                select.and_where(eq_param(Task::ThingId));
                values.push(self.filter.thing.into());
            }
            TaskIndex::Topic => {
                select.and_where(eq_param(Task::Topic));
                values.push(self.filter.topic.clone().into());
            }
            TaskIndex::Reason => {
                select.and_where(Expr::col(Task::Reason).is_not_null());
            }
        }
        select.and_where(Expr::col(Task::Id).gte(param())).and_where(Expr::col(Task::Id).lt(param()));
        values.extend([self.from.clone().into(), self.below.clone().into()]);
        values
    }
}
