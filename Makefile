.DEFAULT_GOAL := help
.PHONY: help demo shell test guest check clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 14

demo: ## boot the default guest: its greeting, and where the boot's time went (first time: 6-10 minutes)
	@resources/demo.sh

shell: ## boot the default guest and stay at its prompt (Ctrl-A x leaves)
	@resources/demo.sh shell

test: ## every test: units, tiny guests on /dev/kvm, real Linux guests; for both architectures
	@resources/test.sh

guest: ## the default guest's kernel (4-5 minutes, once per machine) and root file system
	@resources/guest.sh

check: ## formatting, lints and the links of the API's documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo rustdoc --lib -- -D warnings
	cargo rustdoc -p mote-agent-protocol --lib -- -D warnings

clean: ## remove what was compiled here (what is in the cache folder stays)
	cargo clean
