# make up      a cluster on this machine: Redis groups, their replicas, the proxy at port 6380, the control plane at 6390
# make down    its end
# make test    everything that must hold: lints, unit tests, simulation, e2e, clients, Redis's own suite, a little fuzzing
# make gates   what a request may cost; one line a gate
# make bench   the proxy beside its peers, and beside those given as BENCH="NAME=HOST:PORT:PID ..."
# make fuzz    SECONDS=N of each fuzz target
# make dashboards-test    every query of every dashboard gives data: a real Prometheus, a real cluster
# make alerts-test        every alert fires on its cause in a real cluster and ends: a real Prometheus, a real Alertmanager
# make deb     Debian packages of proxy, configsvr and twemslotctl, in target/deb
# make ops-test  the playbooks deploy them onto machines of their own (as root), which are then broken under load
# make zones-test  the same for nine machines in three zones, with TLS: deployed, deployed again, written to
# make soak    primaries die RUNS=N times of each cause, under load; one JSON line a cause
# make soak-sentinel   the same done to three Redis Sentinels and haproxy, for comparison
# make partitions   hosts cut off from each other, in network namespaces; needs root; one JSON line a cut
# make soak-migration   slots move RUNS=N times under load; one JSON line a move
# make codis-test CODIS_SERVER=PATH   slots of codis-servers move on access; built from Codis's public source, outside of here
# make bench-migration  how fast slots are copied; one JSON line a kind of value
#
# The whole picture, with an etcd of three: make up STORE=etcd CONFIGSVRS=3 PROXIES=2
# UP holds further options, as in: make up UP='--base-port 7000 --groups 4'

STORE ?= embedded
CONFIGSVRS ?= 1
PROXIES ?= 1
UP ?=
SECONDS ?= 60
RUNS ?= 20
CTL := target/release/twemslotctl

.PHONY: help up down status build deb test gates bench fuzz soak soak-sentinel soak-migration codis-test partitions dashboards-test alerts-test ops-test zones-test bench-migration fmt lint

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

build:
	@.ci/install run $(filter etcd,$(STORE))
	cargo build --release --workspace --bins

deb: build
	@packaging/build

up: build
	@$(CTL) playground up --detach --store $(STORE) --configsvrs $(CONFIGSVRS) --proxies $(PROXIES) $(UP)

down status:
	@$(CTL) playground $@

test:
	@.ci/install run test watch partitions
	@.ci/test

gates:
	@.ci/install run bench
	@tests/gates/run

bench:
	@.ci/install run bench
	@tests/bench/run $(BENCH)

dashboards-test alerts-test: %-test:
	@.ci/install run watch
	cargo build --workspace --bins
	@tests/ops/$*.py

fuzz:
	@.ci/install fuzz
	@tests/fuzz/run $(SECONDS)

ops-test zones-test:
	@.ci/install run ops
	cargo build --workspace --bins
	@tests/ops/quick --lint
	@$(if $(filter ops-test,$@),tests/ops/run --inventory one && tests/ops/run --inventory three,tests/ops/run --inventory zones)

soak:
	@.ci/install run test
	cargo build --release --workspace --bins
	SOAK=$(RUNS) cargo test --release -p tests --test failover -- --exact soak::soak --nocapture

codis-test:
	@.ci/install run test
	cargo build --workspace --bins
	CODIS_SERVER=$(abspath $(CODIS_SERVER)) cargo test -p tests --test migration -- --exact on_access::slots_of_codis_servers_move_on_access --nocapture

soak-sentinel:
	@.ci/install run test bench
	cargo build --release --workspace --bins
	SOAK_SENTINEL=$(RUNS) cargo test --release -p tests --test failover -- --exact soak::soak_of_sentinel --nocapture

partitions:
	@.ci/install run partitions
	cargo build --release --workspace --bins
	cargo build --release -p tests --example history-load
	tests/faults/partitions --runs $(RUNS)

soak-migration:
	@.ci/install run test
	cargo build --release --workspace --bins
	SOAK=$(RUNS) cargo test --release -p tests --test migration soak -- --nocapture

bench-migration:
	@.ci/install run test
	MOVER_SOAK=1 cargo test --release -p tests --test mover soak -- --nocapture

fmt:
	cargo fmt --all

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@.ci/dependencies
