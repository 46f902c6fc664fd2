# SPDX-License-Identifier: GPL-2.0
#
# The module's objects are in Kbuild, which the kernel's build system reads.
# What runs in a guest is in vm/ and tests/; it makes its own kernel.

# A built kernel tree, or what a distribution installs to build modules against.
KDIR ?= /lib/modules/$(shell uname -r)/build
# The kernel's own compilers, and names for them that can be overridden.
LLVM ?= $(if $(call config,CC_IS_CLANG),1)
RUSTC ?= rustc
BINDGEN ?= bindgen

pound := \#
comma := ,
quote := "
config = $(subst $(quote),,$(shell sed -n 's/^CONFIG_$(1)=//p' $(KDIR)/include/config/auto.conf))
release = $(shell cat $(KDIR)/include/config/kernel.release)
kbuild = $(MAKE) -C $(KDIR) M=$(CURDIR) $(if $(MO),MO=$(abspath $(MO))) \
	$(if $(LLVM),LLVM=$(LLVM)) RUSTC=$(RUSTC) BINDGEN=$(BINDGEN)

.PHONY: modules install clean help demo test test-long bench shell check

modules:
	$(if $(obstacle),$(error $(obstacle)))
	+@$(kbuild) modules

# Where modprobe finds it. Installed headers lack what the kernel's own call of
# depmod needs.
install: $(if $(wildcard $(or $(MO),.)/dm-clone-rs.ko),,modules)
	+@$(kbuild) modules_install
	@PATH="$$PATH:/sbin" depmod $(if $(INSTALL_MOD_PATH),-b $(INSTALL_MOD_PATH)) $(release)

clean:
	+@$(kbuild) clean

demo:
	@vm/run --timeout 600 --disk 64M --disk 64M -- tests/demo

test:
	@tests/run

test-long:
	@tests/run --long

bench:
	@vm/run --counted -- python3 tests/bench/pass_through.py
	@vm/run -- python3 tests/bench/copy_throughput.py
	@vm/run --counted -- python3 tests/bench/mirrored_write.py
	@vm/run --counted -- python3 tests/bench/modify.py
	@vm/run -- python3 tests/bench/memory_speed.py

shell:
	@vm/run

check:
	@tests/check

help:
	@echo 'make [modules]  builds dm-clone-rs.ko against'
	@echo '                KDIR=$(KDIR);'
	@echo '                MO= is a folder to build in, RUSTC=, BINDGEN=, CC= and LLVM= the compilers'
	@echo 'make install    installs it, below INSTALL_MOD_PATH= if that is given'
	@echo 'make clean      removes what was built'
	@echo
	@echo 'In a guest (see vm/), with a kernel of its own:'
	@echo 'make demo       shows the target at work'
	@echo 'make test       runs all tests but the long ones; make test-long runs those, too'
	@echo 'make bench      compares the speed with dm-linear, dd, md and dm-mirror'
	@echo 'make shell      is a prompt there, with the module loaded'
	@echo
	@echo 'make check      runs rustfmt, clippy, checkpatch, shellcheck and ruff'

# Why the module cannot be built, in a sentence. A line is only looked at when
# those above it have found nothing.
obstacle = $(strip $(or \
	$(if $(wildcard $(KDIR)/include/config/auto.conf),,\
		$(KDIR) is neither a built kernel nor an installed headers tree: KDIR= names one), \
	$(if $(call config,RUST),,\
		the kernel of $(KDIR) was built without CONFIG_RUST: no Rust module fits it), \
	$(if $(call config,CFI)$(call config,CFI_CLANG),\
		the kernel of $(KDIR) checks the types of indirect calls (CONFIG_CFI)$(comma) which \
		Rust cannot pass for all callbacks of device-mapper yet), \
	$(if $(wildcard $(KDIR)/rust/libkernel.rmeta),,\
		$(KDIR)/rust has no libkernel.rmeta: this tree lacks what Rust modules are built against), \
	$(if $(rustc_found),,\
		there is no $(RUSTC): the kernel of $(KDIR) needs $(rustc_wanted), RUSTC= names it), \
	$(if $(call same,$(rustc_found),$(rustc_wanted)),,\
		$(RUSTC) is $(rustc_found), but the kernel of $(KDIR) was built with $(rustc_wanted): \
		it must be the same, RUSTC= names another one), \
	$(if $(shell command -v $(BINDGEN) 2>/dev/null),,\
		there is no $(BINDGEN): BINDGEN= names another one), \
	$(if $(bindgen_struct),,\
		$(BINDGEN) finds no libclang that it can use: LIBCLANG_PATH= names the folder of one), \
	$(if $(findstring pub field,$(bindgen_struct)),,\
		$(BINDGEN) is too old for its libclang and would lose the fields of structs: \
		LIBCLANG_PATH= names the folder of an older one)))

same = $(if $(subst <$(1)>,,<$(2)>),,yes)
rustc_found = $(subst $(pound),,$(shell $(RUSTC) --version 2>/dev/null))
rustc_wanted = $(call config,RUSTC_VERSION_TEXT)

# Fields that a declaration before the struct can cost.
bindgen_struct = $(shell echo 'struct s; struct s { int field; };' | \
	$(if $(LIBCLANG_PATH),LIBCLANG_PATH=$(LIBCLANG_PATH)) $(BINDGEN) /dev/stdin -- -x c 2>/dev/null)
