//! Makes every SQLite connection of this process durable, whatever the library that opens it asks for.
//!
//! SQLite calls an automatic extension on each connection before it is handed out: that sets WAL and FULL. Then an
//! authorizer makes SQLite pass over a later `PRAGMA synchronous = …`, without an error.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
};

use libsqlite3_sys::{
    SQLITE_IGNORE, SQLITE_OK, SQLITE_PRAGMA, sqlite3, sqlite3_api_routines, sqlite3_auto_extension, sqlite3_exec,
    sqlite3_set_authorizer,
};

/// Takes effect on connections that are opened later.
pub fn overrule() {
    // SAFETY: the function lives as long as the program, and has the signature that SQLite calls.
    let code = unsafe { sqlite3_auto_extension(Some(opened)) };
    assert_eq!(code, SQLITE_OK, "registering the extension");
}

unsafe extern "C" fn opened(db: *mut sqlite3, _error: *mut *const c_char, _api: *const sqlite3_api_routines) -> c_int {
    let sql = c"PRAGMA busy_timeout = 60000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";
    // SAFETY: `db` is open, the text ends with a zero, and nothing is asked to be called back with data of ours.
    unsafe {
        match sqlite3_exec(db, sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut()) {
            SQLITE_OK => sqlite3_set_authorizer(db, Some(authorize), ptr::null_mut()),
            code => code,
        }
    }
}

/// Lets everything pass but a new value of `synchronous`.
unsafe extern "C" fn authorize(
    _data: *mut c_void,
    action: c_int,
    name: *const c_char,
    value: *const c_char,
    _database: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    if action != SQLITE_PRAGMA || name.is_null() || value.is_null() {
        return SQLITE_OK;
    }
    // SAFETY: SQLite gives the name of the pragma as a text that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    if name.to_bytes().eq_ignore_ascii_case(b"synchronous") { SQLITE_IGNORE } else { SQLITE_OK }
}
