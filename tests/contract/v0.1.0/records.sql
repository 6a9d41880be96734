BEGIN TRANSACTION;
CREATE TABLE audit (
    sequence integer primary key, previous text not null, time text not null, body text not null, hash text not null
) strict;
INSERT INTO "audit" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000000','2026-11-22T01:41:44+00:00','{"event":"initialised"}','56fc8b321e082078b83de65785ed64a153329eab6cb35f7f41bc7cbf0c33ac36');
INSERT INTO "audit" VALUES(2,'56fc8b321e082078b83de65785ed64a153329eab6cb35f7f41bc7cbf0c33ac36','2026-11-22T01:41:44+00:00','{"event":"ledger","kind":"created","ledger_hash":"c8fd528e09b2b25b91792f3e2aae920d48b53d00744955cab45a2fbd8d59d149","ledger_sequence":1}','1070480fcc5896d6aa26539b65dc1d232777ebd071b267ed01f0d1147da48a99');
INSERT INTO "audit" VALUES(3,'1070480fcc5896d6aa26539b65dc1d232777ebd071b267ed01f0d1147da48a99','2026-11-22T01:41:48+00:00','{"event":"ledger","kind":"reserved","ledger_hash":"fbef9f22d15e8c7034732b2f89b32193862e6577c446f3c636e6e450e1314ce0","ledger_sequence":2}','8e1be04336f3cf77b467756633fde2ea15af4625043dd5f3748d3831a2f60e5f');
INSERT INTO "audit" VALUES(4,'8e1be04336f3cf77b467756633fde2ea15af4625043dd5f3748d3831a2f60e5f','2026-11-22T01:41:48+00:00','{"event":"round","federation":"test-federation","round":1,"state":"released"}','71403f94150624c5153b93d0b92ae91bdb8cef1e4141d19dbce57272162c1347');
INSERT INTO "audit" VALUES(5,'71403f94150624c5153b93d0b92ae91bdb8cef1e4141d19dbce57272162c1347','2026-11-22T01:41:48+00:00','{"event":"ledger","kind":"released","ledger_hash":"5b169462dfcf250a43c888f982857a0a72ed837855fd14e954128f15396cdb31","ledger_sequence":3}','ffb82f7c6968298719700e32a34ce95aaa7826f236964d4188cb7a9dc7868f1f');
INSERT INTO "audit" VALUES(6,'ffb82f7c6968298719700e32a34ce95aaa7826f236964d4188cb7a9dc7868f1f','2026-11-22T01:41:48+00:00','{"event":"ledger","kind":"reserved","ledger_hash":"ee270527926e34ff3e046a2af93a239504b1bb2956cf6b9d9bc1e1fbc09621fa","ledger_sequence":4}','fe3556739cf9242c33e94fb594f8779f6421f2630c9c008d8912cd78ff23091e');
INSERT INTO "audit" VALUES(7,'fe3556739cf9242c33e94fb594f8779f6421f2630c9c008d8912cd78ff23091e','2026-11-22T01:41:48+00:00','{"event":"round","federation":"test-federation","round":2,"state":"released"}','f7fe72b4f482bd0c8ebd654f21c3409597d68a0fbf1e4d6158a3ba9c9e7cad2b');
INSERT INTO "audit" VALUES(8,'f7fe72b4f482bd0c8ebd654f21c3409597d68a0fbf1e4d6158a3ba9c9e7cad2b','2026-11-22T01:41:48+00:00','{"event":"ledger","kind":"released","ledger_hash":"f4c1ab17e3837b7cf3d08771d52ab226508ee74464a75b5cc802a768e15f2d30","ledger_sequence":5}','5b402a8d6e78b0de653afbf4a83e043d794c5b8ac01d374c278d6bcf1dc3a3e9');
INSERT INTO "audit" VALUES(9,'5b402a8d6e78b0de653afbf4a83e043d794c5b8ac01d374c278d6bcf1dc3a3e9','2026-11-22T01:41:48+00:00','{"event":"ledger","kind":"acknowledged","ledger_hash":"9cbef631eeba49d40e9389446cadf3f79e3a27d05abccfc44778cd16847dfd01","ledger_sequence":6}','0ff0010cced1a1e66bfdb588c562f6a772a6b76b2a08f51fc423afd779402b3f');
CREATE TABLE evaluations (model_sha256 text primary key, time text not null, body text not null) strict;
INSERT INTO "evaluations" VALUES('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','2026-11-22T01:41:48+00:00','{"mean_dice":0.5}');
CREATE TABLE ledger (
    sequence integer primary key, previous text not null, time text not null, body text not null, hash text not null
) strict;
INSERT INTO "ledger" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000000','2026-11-22T01:41:44+00:00','{"delta":1e-06,"epsilon":8.0,"kind":"created","nominal_patients":100,"order":4.0,"relation":"add-remove","unit":"patient"}','c8fd528e09b2b25b91792f3e2aae920d48b53d00744955cab45a2fbd8d59d149');
INSERT INTO "ledger" VALUES(2,'c8fd528e09b2b25b91792f3e2aae920d48b53d00744955cab45a2fbd8d59d149','2026-11-22T01:41:48+00:00','{"accountant":"dp-accounting 0.6.0","after":{"delta_tail":1e-10,"divergence":0.02,"epsilon":3.875423328163125,"epsilon_noised":3.875423328163125,"epsilon_of_sequence":0.39685967463798094,"releases":1},"before":{"delta_tail":0.0,"divergence":0.0,"epsilon":0.0,"epsilon_noised":0.0,"epsilon_of_sequence":0.0,"releases":0},"clip_norm":1.0,"delta":1e-06,"delta_tail":1e-10,"effective":{"sampling_rate":1.0,"sigma":10.0,"steps":1},"federation":"test-federation","generator":"a generator","kind":"reserved","mechanism":"gaussian-update","noise_multiplier":20.0,"order":4.0,"plan_sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","round":1,"sampling_rate":1.0,"sensitivity":2.0,"steps":1,"ticket_sha256":"0000000000000000000000000000000000000000000000000000000000000001"}','fbef9f22d15e8c7034732b2f89b32193862e6577c446f3c636e6e450e1314ce0');
INSERT INTO "ledger" VALUES(3,'fbef9f22d15e8c7034732b2f89b32193862e6577c446f3c636e6e450e1314ce0','2026-11-22T01:41:48+00:00','{"federation":"test-federation","kind":"released","payload_bytes":1000,"payload_sha256":"000000000000000000000000000000000000000000000000000000000000000b","reservation":2,"round":1}','5b169462dfcf250a43c888f982857a0a72ed837855fd14e954128f15396cdb31');
INSERT INTO "ledger" VALUES(4,'5b169462dfcf250a43c888f982857a0a72ed837855fd14e954128f15396cdb31','2026-11-22T01:41:48+00:00','{"accountant":"dp-accounting 0.6.0","after":{"delta_tail":2e-10,"divergence":0.04,"epsilon":3.8954566664972363,"epsilon_noised":3.8954566664972363,"epsilon_of_sequence":0.5750615816832642,"releases":2},"before":{"delta_tail":1e-10,"divergence":0.02,"epsilon":3.875423328163125,"epsilon_noised":3.875423328163125,"epsilon_of_sequence":0.39685967463798094,"releases":1},"clip_norm":1.0,"delta":1e-06,"delta_tail":1e-10,"effective":{"sampling_rate":1.0,"sigma":10.0,"steps":1},"federation":"test-federation","generator":"a generator","kind":"reserved","mechanism":"gaussian-update","noise_multiplier":20.0,"order":4.0,"plan_sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","round":2,"sampling_rate":1.0,"sensitivity":2.0,"steps":1,"ticket_sha256":"0000000000000000000000000000000000000000000000000000000000000002"}','ee270527926e34ff3e046a2af93a239504b1bb2956cf6b9d9bc1e1fbc09621fa');
INSERT INTO "ledger" VALUES(5,'ee270527926e34ff3e046a2af93a239504b1bb2956cf6b9d9bc1e1fbc09621fa','2026-11-22T01:41:48+00:00','{"federation":"test-federation","kind":"released","payload_bytes":1000,"payload_sha256":"000000000000000000000000000000000000000000000000000000000000000c","reservation":4,"round":2}','f4c1ab17e3837b7cf3d08771d52ab226508ee74464a75b5cc802a768e15f2d30');
INSERT INTO "ledger" VALUES(6,'f4c1ab17e3837b7cf3d08771d52ab226508ee74464a75b5cc802a768e15f2d30','2026-11-22T01:41:48+00:00','{"federation":"test-federation","kind":"acknowledged","receipt_sha256":"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee","reservation":4,"round":2}','9cbef631eeba49d40e9389446cadf3f79e3a27d05abccfc44778cd16847dfd01');
CREATE TABLE rounds (
    federation text not null, round integer not null, state text not null, body text not null, changed text not null,
    primary key (federation, round)
) strict;
INSERT INTO "rounds" VALUES('test-federation',1,'released','{"ticket_sha256":"0000000000000000000000000000000000000000000000000000000000000001"}','2026-11-22T01:41:48+00:00');
INSERT INTO "rounds" VALUES('test-federation',2,'released','{"ticket_sha256":"0000000000000000000000000000000000000000000000000000000000000002"}','2026-11-22T01:41:48+00:00');
CREATE TRIGGER ledger_is_never_updated before update on ledger
    begin select raise(abort, 'the ledger is append-only'); end;
CREATE TRIGGER ledger_is_never_deleted before delete on ledger
    begin select raise(abort, 'the ledger is append-only'); end;
CREATE TRIGGER audit_is_never_updated before update on audit
    begin select raise(abort, 'the audit is append-only'); end;
CREATE TRIGGER audit_is_never_deleted before delete on audit
    begin select raise(abort, 'the audit is append-only'); end;
COMMIT;
PRAGMA user_version = 1;
