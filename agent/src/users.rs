//! Who `USER` and `USER:GROUP` are, by a root's /etc/passwd and /etc/group.

use mote_agent_protocol::container::User;

use crate::error::{Error, Result};
use crate::paths::Root;

/// By numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    pub user: u32,
    pub group: u32,
    pub groups: Vec<u32>,
    /// Its home folder, where it is known.
    pub home: Option<String>,
}

/// Finds the user in the root's files.
pub fn find(root: &Root, user: &User) -> Result<Ids> {
    let read = |path| root.read(path).unwrap_or_default();
    let passwd = read("/etc/passwd");
    match user {
        User::Ids {
            user,
            group,
            groups,
        } => Ok(Ids {
            user: *user,
            group: *group,
            groups: groups.clone(),
            home: entry(&passwd, &user.to_string(), 2).and_then(|entry| home(&entry)),
        }),
        User::Named(text) => named(text, &passwd, &read("/etc/group")),
    }
}

fn home(entry: &[&str]) -> Option<String> {
    let home = entry.get(5).filter(|home| home.starts_with('/'));
    home.map(|home| (*home).to_owned())
}

/// The line whose field `at` is this.
fn entry<'a>(file: &'a str, value: &str, at: usize) -> Option<Vec<&'a str>> {
    let lines = file.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.into_iter().find(|line| line.get(at) == Some(&value))
}

fn named(text: &str, passwd: &str, group: &str) -> Result<Ids> {
    let (user, own_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name first: one of digits is a name where the file has it.
    let line = entry(passwd, user, 0).or_else(|| entry(passwd, user, 2));
    let number = |line: &[&str], at: usize| line.get(at).and_then(|text| text.parse().ok());
    let (id, mut group_id) = match &line {
        Some(line) => (number(line, 2), number(line, 3).unwrap_or(0)),
        None => (user.parse().ok(), 0),
    };
    let Some(id) = id else {
        let message = format!("user {user}: the image's /etc/passwd has none of that name");
        return Err(Error::new(message, libc::ENOENT));
    };
    let mut groups = Vec::new();
    match own_group {
        Some(name) => {
            let line = entry(group, name, 0).or_else(|| entry(group, name, 2));
            let found = match &line {
                Some(line) => number(line, 2),
                None => name.parse().ok(),
            };
            group_id = found.ok_or_else(|| {
                let message = format!("group {name}: the image's /etc/group has none of that name");
                Error::new(message, libc::ENOENT)
            })?;
        }
        None => {
            let name = line.as_ref().and_then(|line| line.first()).copied();
            let lines = group
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>());
            let of_it = lines.filter(|line| {
                let members = line.get(3).copied().unwrap_or_default();
                name.is_some_and(|name| members.split(',').any(|member| member == name))
            });
            groups.extend(of_it.filter_map(|line| number(&line, 2)));
        }
    }
    Ok(Ids {
        user: id,
        group: group_id,
        groups,
        home: line.as_ref().and_then(|line| home(line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n\
        77:x:5:6::/:/x\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:web,other\nmore:x:41:other,web\n";

    #[test]
    fn users_are_found_by_name_or_number() {
        for (text, user, group, groups, home) in [
            ("", 0, 0, &[][..], Some("/root")),
            ("root", 0, 0, &[], Some("/root")),
            ("web", 33, 34, &[40, 41], Some("/var/www")),
            ("33", 33, 34, &[40, 41], Some("/var/www")),
            ("web:logs", 33, 40, &[], Some("/var/www")),
            ("web:", 33, 34, &[40, 41], Some("/var/www")),
            ("1234", 1234, 0, &[], None),
            ("1234:99", 1234, 99, &[], None),
            ("77", 5, 6, &[], Some("/")),
        ] {
            let found = named(text, PASSWD, GROUP).unwrap();
            let home = home.map(str::to_owned);
            let groups = groups.to_vec();
            let expected = Ids {
                user,
                group,
                groups,
                home,
            };
            assert_eq!(found, expected, "{text}");
        }
        for text in ["nobody", "web:none", "-1", "4294967296", "broken"] {
            assert!(named(text, PASSWD, GROUP).is_err(), "{text}");
        }
    }
}
