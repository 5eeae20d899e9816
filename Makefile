# Raypher: the targets that a person or a pipeline needs. `make help` lists them.

SHELL := /bin/sh
GO ?= go
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The same flags everywhere: static programs without machine paths in them. grpcnotrace leaves out gRPC's debugging pages, and
# with them 3 MB of which every start would touch a part.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -tags grpcnotrace -ldflags '-s -w -X main.version=$(VERSION)'

# The enclave's program: its bytes are measured, so that everything which changes them stands here. VERSION is one of its inputs.
ENCLAVE_GO ?= 1.26.8
ENCLAVE_ARCH ?= amd64
ENCLAVE_OUT ?= dist/enclave/raypher-enclave
ENCLAVE_BUILD := GOTOOLCHAIN=go$(ENCLAVE_GO) GOFLAGS=-trimpath GOWORK=off GOOS=linux GOARCH=$(ENCLAVE_ARCH) GOAMD64=v1 GOARM64=v8.0 \
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION)'

PREFIX ?= /usr/local
UNITS ?= /usr/lib/systemd/system

.DEFAULT_GOAL := build
.PHONY: build programs help deps demo demo-nitro demo-agents demo-openclaw test test-vm bench fuzz generate arm64 enclave install uninstall clean

build: programs ## build all programs into bin/ (the default)

# What a person types starts agents, as light as can be, and leaves every other command to raypher-cli beside it.
programs:
	@mkdir -p $(BIN)
	$(BUILD) -o $(BIN)/ ./cmd/raypherd ./cmd/raypher-enclave ./cmd/raypher-controller
	$(BUILD) -o $(BIN)/raypher ./cmd/raypher-run
	$(BUILD) -o $(BIN)/raypher-cli ./cmd/raypher

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what tests and demonstrations need from Debian's packages (root)
	scripts/deps.sh

demo: build ## an agent, an injected model, real hosts: what was tried and what held it; then a budget that runs out (root)
	$(BUILD) -o $(BIN)/demo ./examples/demo
	$(BUILD) -o $(BIN)/demo-agent ./examples/demo/agent
	$(BIN)/demo $(DEMO)

demo-nitro: build ## the demonstration with an enclave of tier nitro in the laboratory, under a test root (root; downloads parts once)
	$(BUILD) -o $(BIN)/demo ./examples/demo
	$(BUILD) -o $(BIN)/demo-agent ./examples/demo/agent
	scripts/demo-nitro.sh $(BIN) $(DEMO)

demo-agents: build ## the same with OpenClaw, Codex, opencode and Claude Code from npm, as a plain user (root)
	$(BUILD) -o $(BIN)/demo-agents ./examples/agents
	scripts/demo-agents.sh $(BIN)/demo-agents $(DEMO) $(AGENTS)

demo-openclaw: ## the same with OpenClaw alone (root)
	$(MAKE) --no-print-directory demo-agents AGENTS=openclaw

test: ## install what is needed and run every check and test (root)
	scripts/test.sh

test-vm: ## the programs in virtual machines with other kernels, each with Yama; some minutes (downloads kernels; root for QEMU)
	scripts/vm.sh

bench: build ## each figure beside what it is compared with, from one run (root)
	scripts/bench.sh $(BIN)

fuzz: ## each fuzz target for a few seconds (FUZZTIME=5s)
	scripts/fuzz.sh

generate: deps ## protocol code and BPF objects from their sources
	$(GO) build -o $(BIN)/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc \
		github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2
	PATH="$(CURDIR)/$(BIN):$$PATH" $(GO) generate ./proto/... ./bpf/...

arm64: ## cross-build the programs for linux/arm64 into dist/arm64/
	GOOS=linux GOARCH=arm64 $(MAKE) --no-print-directory programs BIN=dist/arm64

enclave: ## the enclave's program as it goes into an image, the same bytes everywhere (ENCLAVE_OUT, VERSION)
	@mkdir -p $(dir $(ENCLAVE_OUT))
	$(ENCLAVE_BUILD) -o $(ENCLAVE_OUT) ./cmd/raypher-enclave

install: build ## programs, units, the group raypher and the user raypher-enclave (root; PREFIX, DESTDIR; NITRO=1: for a Nitro host)
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITS="$(UNITS)" scripts/$(if $(NITRO),nitro-)install.sh $(BIN)

uninstall: ## take away what install put there; journals in /var/lib/raypher stay (root)
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITS="$(UNITS)" scripts/uninstall.sh

clean: ## remove what was built
	rm -rf $(BIN) dist
