"""Runs a command on a terminal of its own, answers each of its prompts, and prints what the terminal shows.

    type_password.py PROGRAM ARGUMENT... -- ANSWER...

Exits as the command does. An answer is typed once the terminal has shown a prompt (a colon and a space).
"""

import os
import pty
import select
import sys

split = sys.argv.index("--")
command, answers = sys.argv[1:split], sys.argv[split + 1 :]
process, terminal = pty.fork()
if process == 0:
    os.execv(command[0], command)

shown, unanswered = b"", b""
while True:
    if not select.select([terminal], [], [], 20)[0]:
        sys.exit(f"nothing happens any more: {shown!r}")
    try:
        chunk = os.read(terminal, 4096)
    except OSError:  # EIO: the other side is closed
        break
    if not chunk:
        break
    shown, unanswered = shown + chunk, unanswered + chunk
    if unanswered.endswith(b": ") and answers:
        os.write(terminal, answers.pop(0).encode() + b"\n")
        unanswered = b""
sys.stdout.write(shown.decode().replace("\r\n", "\n"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
