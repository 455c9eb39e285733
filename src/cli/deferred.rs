//! Arguments of a subcommand that are described only when it is the one that was typed: a VM's start doesn't pay
//! for what other subcommands have to say.

use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The arguments of a subcommand.
#[derive(Debug)]
pub struct Deferred<T>(pub T);

impl<T: Args> FromArgMatches for Deferred<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(matches).map(Deferred)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl<T: Args> Args for Deferred<T> {
    fn augment_args(command: Command) -> Command {
        command.defer(|command| with_its_purpose(command, T::augment_args))
    }

    fn augment_args_for_update(command: Command) -> Command {
        command.defer(|command| with_its_purpose(command, T::augment_args_for_update))
    }
}

/// What the subcommand is for was said before; what the arguments' type says of itself is for who reads the code.
fn with_its_purpose(command: Command, describe: fn(Command) -> Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    describe(command).about(about)
}
