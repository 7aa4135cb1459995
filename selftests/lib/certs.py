# SPDX-License-Identifier: MIT
"""Certificates for tests, made by openssl(1)."""
import os
import shutil
import subprocess


class Certs:
    """A CA and certificates in a folder: NAME.pem, NAME.key."""

    def __init__(self, folder):
        self.folder = str(folder)
        os.makedirs(self.folder, exist_ok=True)
        self.ca("ca")

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *args):
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=30)

    def ca(self, name):
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                 f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "30", "-addext",
                 "keyUsage=critical,keyCertSign,cRLSign")

    def cert(self, name, san="DNS:localhost,IP:127.0.0.1,IP:::1", ca="ca", days=10, cn=None):
        """`days` below zero: expired. `san` None: a subject's CN only."""
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                 f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={cn or name}")
        with open(self.path(f"{name}.ext"), "w") as f:
            f.write(f"subjectAltName={san}\n" if san else "basicConstraints=CA:FALSE\n")
        until = ["-days", str(days)]
        known = subprocess.run(["openssl", "x509", "-help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if days < 0 and "-not_after" in known.stdout:  # OpenSSL 3.4 and later, which take no days below zero
            until = ["-not_before", "20200101000000Z", "-not_after", "20200102000000Z"]
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                 *until, "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        return self.pair(name)

    def pair(self, name):
        return {"cert": self.path(f"{name}.pem"), "key": self.path(f"{name}.key")}

    def copy(self, old, new):
        for end in ("pem", "key"):
            shutil.copy(self.path(f"{old}.{end}"), self.path(f"{new}.{end}"))
