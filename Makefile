# SPDX-License-Identifier: MIT
#
# The front door. `make help` lists what there is.
#
#   make          build the programs          make run        install what is missing, build, run
#   make test     the fast cut of every suite make test-full  the sizes that the issues name
#   make bench    figures against rivals      make vmtest     other kernels under QEMU
#   make soak     SECONDS=600 [SEED=]: sessions of all kinds while things happen   make coverage  what the tests reach
#   make fuzz     SECONDS=60 each target [TARGETS="fuzz_netlink ..."], under ASan and UBSan
#   make lint     every linter                make install    PREFIX=/usr/local DESTDIR=
#   make mesh-tools  what the mesh tests run against: etcd, Kubernetes (needs Go)   make test-mesh, test-mesh-fast  those tests
#   make deb      the Debian package, in build/deb (needs debhelper; DEB_ARGS= of dpkg-buildpackage)
#
# Variables: BUILD=dir, CC=gcc|clang, SAN=asan|tsan, WERROR=0 (packagers), V=1.

BUILD   ?= build
PREFIX  ?= /usr/local
CLANG   ?= clang
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
VERSION := $(shell cat VERSION)
WERROR  ?= 1
Q       := $(if $(V),,@)

.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all

# ---- flags ------------------------------------------------------------------

PKGS := libuv libcares libwebsockets libcjson yaml-0.1 libpcre2-8 libxxhash libbpf libxdp libelf \
        openssl libcap libmnl
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
CURL_LIBS  = $(shell pkg-config --libs libcurl)
PKG_LIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lcivetweb -lpthread -lm

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 \
        $(if $(filter 1,$(WERROR)),-Werror)
# -fcf-protection exists on x86 only.
HARDEN := -fstack-protector-strong -fstack-clash-protection -fPIE \
          $(shell $(CC) -fcf-protection -x c -fsyntax-only /dev/null 2>/dev/null && echo -fcf-protection) \
          $(if $(SAN),,-D_FORTIFY_SOURCE=2)
OPT  ?= -O2
SAN_asan := -DL7MP_FAULTS -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread -fno-omit-frame-pointer
# With counters in a shared mapping, so that a process that is killed has counted, too.
SAN_cov  := -fprofile-instr-generate -fcoverage-mapping
SAN_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANFLAGS := $(SAN_$(SAN))
# Faults that tests can ask for are only in the builds that the tests use.
CPPFLAGS += $(if $(SAN),-DL7MP_FAULTS)

CPPFLAGS += -D_GNU_SOURCE -DL7MP_VERSION='"$(VERSION)"' -Iinclude -Iuserspace -I$(BUILD)/gen $(PKG_CFLAGS)
CFLAGS   += -std=gnu11 -g $(OPT) $(WARN) $(HARDEN) $(SANFLAGS) $(if $(filter cov,$(SAN)),-mllvm -runtime-counter-relocation)
LDFLAGS  += -pie -Wl,-z,relro,-z,now $(SANFLAGS)

# ---- layers: each is one archive and may use only those before it -----------

LAYERS := base loop model session net proto transform offload config api
DEPS_base      := base
DEPS_loop      := base loop
DEPS_model     := base model
DEPS_session   := base loop model session
DEPS_net       := base loop model session net
DEPS_proto     := base loop model session net proto
DEPS_transform := base loop model session net transform
DEPS_offload   := base loop model session offload
DEPS_config    := base model config
DEPS_api       := $(LAYERS)
DEPS_daemon    := $(LAYERS) daemon
DEPS_ctl       := base loop model config kube
DEPS_kube      := base loop model config kube
DEPS_operator  := $(LAYERS) daemon kube operator

# A layer's files lie in its folder and one level of folders below it.
srcs = $(sort $(wildcard userspace/$(1)/*.c userspace/$(1)/*/*.c))
objs = $(patsubst %.c,$(BUILD)/obj/%.o,$(call srcs,$(1)))
# The programs' main functions stay out of the archives, so that tests can link the rest.
MAINS := userspace/daemon/main.c userspace/ctl/main.c userspace/operator/main.c userspace/config/doc/docgen.c
archive_objs = $(filter-out $(patsubst %.c,$(BUILD)/obj/%.o,$(MAINS)),$(call objs,$(1)))
libs = -Wl,--start-group $(foreach l,$(1),$(BUILD)/lib/$(l).a) -Wl,--end-group

PROGRAMS := $(BUILD)/l7mp-proxy $(BUILD)/l7mpctl $(BUILD)/l7mp-operator

.PHONY: all
all: $(PROGRAMS)

define layer_rule
$(BUILD)/lib/$(1).a: $$(call archive_objs,$(1))
	@mkdir -p $$(@D)
	$(Q)rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach l,$(LAYERS) daemon ctl kube operator,$(eval $(call layer_rule,$(l))))

$(BUILD)/obj/%.o: %.c | $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC      $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/l7mp-proxy: $(BUILD)/obj/userspace/daemon/main.o $(foreach l,$(DEPS_daemon),$(BUILD)/lib/$(l).a)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(call libs,$(DEPS_daemon)) $(PKG_LIBS)
$(BUILD)/l7mpctl: $(BUILD)/obj/userspace/ctl/main.o $(foreach l,$(DEPS_ctl) ctl,$(BUILD)/lib/$(l).a)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(call libs,$(DEPS_ctl) ctl) $(PKG_LIBS) $(CURL_LIBS)

$(BUILD)/l7mp-operator: $(BUILD)/obj/userspace/operator/main.o $(foreach l,$(DEPS_operator),$(BUILD)/lib/$(l).a)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(call libs,$(DEPS_operator)) $(PKG_LIBS) $(CURL_LIBS)

# ---- the console's files, as C ------------------------------------------------

# In this order its scripts are one.
CONSOLE := userspace/api/console
CONSOLE_JS := $(addprefix $(CONSOLE)/,base.js api.js metrics.js chart.js json.js forms.js path.js overview.js objects.js \
              sessions.js flows.js settings.js main.js)
comma := ,
empty :=
CONSOLE_FILES := index.html=$(CONSOLE)/index.html style.css=$(CONSOLE)/style.css icon.svg=$(CONSOLE)/icon.svg \
                 console.js=$(subst $(empty) $(empty),$(comma),$(strip $(CONSOLE_JS)))
$(BUILD)/gen/console_files.h: $(wildcard $(CONSOLE)/*) scripts/embed.sh Makefile
	@mkdir -p $(@D)
	$(Q)scripts/embed.sh $(CONSOLE_FILES) > $@
$(BUILD)/obj/userspace/api/console.o: $(BUILD)/gen/console_files.h

# ---- documents made from the tables: make docs ------------------------------

$(BUILD)/l7mp-docgen: $(BUILD)/obj/userspace/config/doc/docgen.o $(foreach l,$(DEPS_daemon),$(BUILD)/lib/$(l).a)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(call libs,$(DEPS_daemon)) $(PKG_LIBS)
docs: $(BUILD)/l7mp-docgen
	$(Q)$< docs/configuration.md docs/api.md

# Rebuild everything when the compiler or its flags change.
FLAGS_TEXT = $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS)
.PHONY: force
$(BUILD)/flags: force
	@mkdir -p $(@D)
	@echo '$(subst ','"'"',$(FLAGS_TEXT))' | cmp -s - $@ || echo '$(subst ','"'"',$(FLAGS_TEXT))' > $@

# ---- BPF: objects, BTF and skeletons ----------------------------------------

BPF_SRCS  := $(sort $(wildcard bpf/*.bpf.c))
BPF_OBJS  := $(patsubst bpf/%.bpf.c,$(BUILD)/bpf/%.bpf.o,$(BPF_SRCS))
BPF_SKELS := $(patsubst bpf/%.bpf.c,$(BUILD)/gen/%.skel.h,$(BPF_SRCS))
BPF_CFLAGS := -O2 -g -fno-strict-aliasing -Wall -Werror -target bpf -mcpu=v3 -Iinclude -Iheaders \
              -I/usr/include/$(shell uname -m)-linux-gnu

$(BUILD)/bpf/%.bpf.o: bpf/%.bpf.c $(wildcard headers/*.h) include/l7mp/abi.h include/l7mp/abi_tcp.h Makefile
	@mkdir -p $(@D)
	@echo "  BPF     $<"
	$(Q)$(CLANG) $(BPF_CFLAGS) -c -o $@ $<
$(BUILD)/gen/%.skel.h: $(BUILD)/bpf/%.bpf.o
	@mkdir -p $(@D)
	$(Q)$(BPFTOOL) gen skeleton $< name $(subst -,_,$*) > $@
$(call objs,offload): | $(BPF_SKELS)
$(call objs,offload): CPPFLAGS += -Iheaders

.PHONY: bpf
bpf: $(BPF_SKELS)

# ---- tests -------------------------------------------------------------------

# selftests/unit/test_<layer>_<what>.c links with that layer and those below it,
# and with selftests/lib/*.c (fakes).
UNIT_SRCS := $(sort $(wildcard selftests/unit/test_*.c))
# Tests in which an allocation fails on purpose, or that make their own time or kernel.
LINK_test_loop_core := -Wl,--wrap=realloc
LINK_test_offload_handover := -Wl,--wrap=clock_gettime
LINK_test_offload_recheck := -Wl,--wrap=off_nl_request
UNIT_BINS := $(patsubst selftests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRCS))
unit_layer = $(word 2,$(subst _, ,$(notdir $(1))))
TESTLIB := $(BUILD)/lib/testlib.a
OFFLOAD_TOOLS := $(addprefix $(BUILD)/bench/,offload_flows offload_change offload_check)
$(TESTLIB): $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard selftests/lib/*.c)))
	@mkdir -p $(@D)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/obj/selftests/%.o: CPPFLAGS += -Iselftests/lib
.SECONDEXPANSION:
$(BUILD)/unit/test_%: $(BUILD)/obj/selftests/unit/test_%.o $(TESTLIB) $$(foreach l,$$(DEPS_$$(call unit_layer,$$@)),$(BUILD)/lib/$$(l).a)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) $(LINK_$(notdir $@)) -o $@ $< -Wl,--start-group $(TESTLIB) $(foreach l,$(DEPS_$(call unit_layer,$@)),$(BUILD)/lib/$(l).a) -Wl,--end-group $(PKG_LIBS) $(if $(filter kube,$(DEPS_$(call unit_layer,$@))),$(CURL_LIBS)) -lcmocka

# What fuzz/test_http_diff.py compares with other readers of HTTP.
HTTP_READER := $(BUILD)/bin/http_reader
$(HTTP_READER): $(BUILD)/obj/selftests/fuzz/http_reader.o $(foreach l,$(DEPS_proto),$(BUILD)/lib/$(l).a)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(call libs,$(DEPS_proto)) $(PKG_LIBS)

.PHONY: unit-bins
unit-bins: $(UNIT_BINS) $(OFFLOAD_TOOLS) $(HTTP_READER)
# One unit test by hand, under ASan: make unit T=base_buf
.PHONY: unit
unit:
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SAN=asan OPT=-O1 $(BUILD)/asan/unit/test_$(T)
	$(BUILD)/asan/unit/test_$(T)

# selftests/bpf/test_<what>.c: programs that print TAP; the other files there are what they share.
BPFTEST_SRCS := $(sort $(wildcard selftests/bpf/test_*.c))
BPFTEST_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(BPFTEST_SRCS),$(sort $(wildcard selftests/bpf/*.c))))
BPFTEST_LIB  := $(patsubst %,$(BUILD)/obj/selftests/bpf/%.o,rig packet tap)
BPFTEST_BINS := $(patsubst selftests/bpf/%.c,$(BUILD)/bpf-tests/%,$(BPFTEST_SRCS))
$(BUILD)/obj/selftests/bpf/%.o: CPPFLAGS += -Iheaders
$(BUILD)/bpf-tests/%: $(BUILD)/obj/selftests/bpf/%.o $(BPFTEST_OBJS)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

.PHONY: bpf-tests
bpf-tests: bpf $(BPFTEST_BINS) $(OFFLOAD_TOOLS)

# The cost of the programs against reference programs: selftests/bench/run fastpath-cost
$(BUILD)/bench/%.bpf.o: selftests/bench/%.bpf.c
	@mkdir -p $(@D)
	@echo "  BPF     $<"
	$(Q)$(CLANG) $(BPF_CFLAGS) -c -o $@ $<
$(BUILD)/obj/selftests/bench/bpf_cost.o: CPPFLAGS += -Iheaders -Iselftests/bpf
$(BUILD)/bench/bpf_cost: $(BUILD)/obj/selftests/bench/bpf_cost.o $(BPFTEST_LIB)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf
# The kernel fast path's other suites: fastpath-live (live frames), setup and the rest (the engine without sockets).
$(BUILD)/bench/live.bpf.o: selftests/bench/live.h
$(BUILD)/bench/reference.bpf.o: selftests/bench/cost/next.h
$(BUILD)/bench/live_gen: $(BUILD)/obj/selftests/bench/live_local.o
$(BUILD)/bench/live_gen $(BUILD)/bench/setup_load: $(BUILD)/bench/%: $(BUILD)/obj/selftests/bench/%.o
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf
ENGINE_TOOLS := $(OFFLOAD_TOOLS) $(BUILD)/bench/live_flows
$(patsubst $(BUILD)/bench/%,$(BUILD)/obj/selftests/bench/%.o,$(ENGINE_TOOLS)): CPPFLAGS += -Iheaders
$(patsubst $(BUILD)/bench/%,$(BUILD)/obj/selftests/bench/%.o,$(ENGINE_TOOLS)): | $(BPF_SKELS)
$(ENGINE_TOOLS): $(BUILD)/bench/%: $(BUILD)/obj/selftests/bench/%.o $(foreach l,$(DEPS_offload),$(BUILD)/lib/$(l).a)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(call libs,$(DEPS_offload)) $(PKG_LIBS)
.PHONY: bench-bpf
bench-bpf: bpf $(patsubst %,$(BUILD)/bench/%.bpf.o,reference live bare_redirect cost/l7mp_xdp cost/l7mp_tc) \
           $(patsubst %,$(BUILD)/bench/%,bpf_cost live_gen setup_load) $(ENGINE_TOOLS)
$(patsubst %,$(BUILD)/bench/cost/%.bpf.o,l7mp_xdp l7mp_tc): $(BUILD)/bench/cost/%.bpf.o: \
  bpf/%.bpf.c selftests/bench/cost/next.h $(wildcard headers/*.h) include/l7mp/abi.h include/l7mp/abi_tcp.h

# libFuzzer targets: selftests/fuzz/fuzz_<what>.c. `make fuzz` builds them into build/fuzz/bin and runs each
# for SECONDS, or those that TARGETS names.
FUZZ_SRCS := $(sort $(wildcard selftests/fuzz/fuzz_*.c))
$(BUILD)/obj/selftests/fuzz/%.o: CPPFLAGS += -Iheaders
# Packets are not aligned for their headers; the programs' target does not mind.
$(patsubst %,$(BUILD)/obj/selftests/fuzz/fuzz_%.o,parse splice): CFLAGS += -fno-sanitize=alignment
# The kernel is the input: see there.
LINK_fuzz_netlink := $(addprefix -Wl$(comma)--wrap=mnl_,socket_open2 socket_bind socket_close socket_get_fd \
                       socket_get_portid socket_setsockopt socket_sendto socket_recvfrom cb_run attr_get_u16 attr_get_u32 \
                       attr_get_u64 attr_get_str)
$(BUILD)/bin/fuzz_%: $(BUILD)/obj/selftests/fuzz/fuzz_%.o $(BUILD)/obj/selftests/bpf/model.o $(TESTLIB) $(foreach l,$(LAYERS),$(BUILD)/lib/$(l).a)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer $(LINK_$(notdir $@)) -o $@ $< $(BUILD)/obj/selftests/bpf/model.o -Wl,--start-group $(TESTLIB) $(foreach l,$(LAYERS),$(BUILD)/lib/$(l).a) -Wl,--end-group $(PKG_LIBS) -lcmocka
.PHONY: fuzz fuzz-build fuzz-bins
fuzz-bins: $(patsubst selftests/fuzz/%.c,$(BUILD)/bin/%,$(FUZZ_SRCS))
fuzz-build:
	$(Q)$(MAKE) --no-print-directory BUILD=build/fuzz CC=$(CLANG) SAN=fuzz OPT=-O1 fuzz-bins
SECONDS ?= 60
fuzz:
	$(Q)scripts/setup.sh
	$(Q)$(MAKE) --no-print-directory fuzz-build
	$(Q)L7MP_FUZZ_SECONDS=$(SECONDS) selftests/fuzz/test_fuzz $(TARGETS)

.PHONY: soak coverage setup run test test-full bench vmtest lint install uninstall clean help docs deb mesh-tools test-mesh test-mesh-fast
setup:
	$(Q)scripts/setup.sh
run:
	$(Q)scripts/setup.sh
	$(Q)$(MAKE) --no-print-directory all
	$(BUILD)/l7mp-proxy -c config/l7mp-minimal.yaml -l warn -s
test:
	$(Q)scripts/setup.sh
	$(Q)scripts/test.sh fast
test-full:
	$(Q)scripts/setup.sh full
	$(Q)scripts/test.sh full
mesh-tools:
	$(Q)scripts/mesh-tools.sh
# The folder of the tools is printed last; 77: they can't be built here, and the tests that need them are skipped.
test-mesh:
	$(Q)scripts/setup.sh
	$(Q)scripts/mesh-tools.sh || [ $$? -eq 77 ]
	$(Q)scripts/test.sh full mesh
test-mesh-fast:
	$(Q)scripts/setup.sh
	$(Q)scripts/mesh-tools.sh || [ $$? -eq 77 ]
	$(Q)scripts/test.sh fast --only cluster mesh
soak:
	$(Q)scripts/setup.sh
	$(Q)$(MAKE) --no-print-directory all
	$(Q)selftests/soak/soak.py --seconds $(if $(filter file,$(origin SECONDS)),600,$(SECONDS)) $(if $(SEED),--seed $(SEED))
coverage:
	$(Q)scripts/setup.sh
	$(Q)scripts/coverage.py $(SUITES)
bench:
	$(Q)scripts/setup.sh bench
	$(Q)$(MAKE) --no-print-directory all
	$(Q)selftests/bench/run $(BENCH_ARGS)
vmtest:
	$(Q)scripts/setup.sh vm
	$(Q)$(MAKE) -s -j$$(nproc) all bpf-tests
	$(Q)scripts/vmtest.sh $(KERNEL)
lint:
	$(Q)scripts/lint.sh
clean:
	rm -rf $(BUILD)
install: all
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man8 \
		$(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/doc/l7mp/examples \
		$(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/sysusers.d
	install -m 755 $(BUILD)/l7mp-proxy $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(BUILD)/l7mpctl $(BUILD)/l7mp-operator $(DESTDIR)$(PREFIX)/bin/
	install -D -m 755 scripts/upgrade-service.sh $(DESTDIR)$(PREFIX)/libexec/l7mp/upgrade-service
	mkdir -p $(DESTDIR)$(PREFIX)/share/l7mp
	cp -r deploy $(DESTDIR)$(PREFIX)/share/l7mp/
	install -m 644 docs/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 README.md LICENSE docs/*.md $(DESTDIR)$(PREFIX)/share/doc/l7mp/
	install -m 644 config/* $(DESTDIR)$(PREFIX)/share/doc/l7mp/examples/
	sed 's|@PREFIX@|$(PREFIX)|' scripts/l7mp-proxy.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/l7mp-proxy.service
	echo 'u l7mp - "l7mp proxy"' > $(DESTDIR)$(PREFIX)/lib/sysusers.d/l7mp.conf
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/l7mp-proxy $(DESTDIR)$(PREFIX)/bin/l7mp-operator $(DESTDIR)$(PREFIX)/bin/l7mpctl \
		$(DESTDIR)$(PREFIX)/share/man/man8/l7mp-proxy.8 $(DESTDIR)$(PREFIX)/share/man/man8/l7mp-operator.8 $(DESTDIR)$(PREFIX)/share/man/man1/l7mpctl.1 \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/l7mp-proxy.service $(DESTDIR)$(PREFIX)/lib/sysusers.d/l7mp.conf
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/l7mp $(DESTDIR)$(PREFIX)/share/l7mp $(DESTDIR)$(PREFIX)/libexec/l7mp
# From a copy of the tree, so that it stays as it is.
DEB_TREE = build/deb/l7mp-$(VERSION)
deb:
	rm -rf build/deb
	mkdir -p $(DEB_TREE)
	tar --exclude=./build --exclude=./.git -cf - . | tar -C $(DEB_TREE) -xf -
	cd $(DEB_TREE) && dpkg-buildpackage -us -uc -b $(DEB_ARGS)
	rm -rf $(DEB_TREE)
	@ls build/deb/*.deb
help:
	$(Q)sed -n '3,14s/^# \{0,1\}//p' Makefile

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
