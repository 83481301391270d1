-- Heap and B-tree: every record of both, several times.
create function pg_temp.noise(n int) returns text language sql volatile as $$ select string_agg(md5(random()::text), '') from generate_series(1, n) $$;
select setseed(0.15);

-- Updates in place and elsewhere, pruning, savepoints, aborts.
create table account(id int primary key, branch int, balance int, filler char(60)) with (fillfactor = 80);
insert into account select i, i % 7, 0, '' from generate_series(1, 3000) i;
create table history(id serial, account int, delta int, at timestamptz default now());
create function load(n int) returns void language plpgsql as $$
declare picked int;
begin
    for i in 1..n loop
        picked := 1 + floor(random() * 3000);
        update account set balance = balance + 1 where id = picked;
        begin
            insert into history(account, delta) values (picked, i);
            if i % 11 = 0 then raise exception 'no'; end if;
        exception when raise_exception then null;
        end;
    end loop;
end $$;
select load(400); select load(400);
vacuum account;
select load(400);
begin; update account set balance = 7 where id <= 200; savepoint s; delete from account where id <= 50; rollback to s; delete from account where id between 60 and 90; commit;
begin; update account set id = id + 100000 where id % 10 = 3; rollback;
update account set id = id + 10000 where id % 10 = 3;
select count(*) from account where id < 5000;
vacuum account;
select load(600);
delete from account where id % 2 = 0; vacuum (freeze) account;
insert into account select i, 1, 1, 'again' from generate_series(20001, 21000) i;
vacuum (freeze, index_cleanup on) account; update account set filler = 'x' where id % 5 = 1; delete from account where id % 5 = 2;
vacuum full account; vacuum account;

-- Values of all alignments; null bitmaps; prefixes and suffixes that stay; values out of line.
create table shape(a int, b bool, c text, d numeric, e text, f bigint, g text) with (fillfactor = 60);
alter table shape replica identity full;
insert into shape select i, case when i % 3 = 0 then true end, repeat('c', i % 40), case when i % 4 = 0 then i * 1.5 end, pg_temp.noise(1 + i % 3), i,
    case when i % 50 = 0 then pg_temp.noise(120) end from generate_series(1, 600) i;
update shape set c = c || 'x' where a % 4 = 0; update shape set f = f + 1 where a % 3 = 0; update shape set b = not b; update shape set e = null where a % 5 = 0;
update shape set a = -a where a % 6 = 0; update shape set g = pg_temp.noise(200) where a % 100 = 0; alter table shape add column h int default 5, add column i text;
update shape set h = 6 where a % 7 = 0; update shape set i = repeat('i', 300) where a % 2 = 0; delete from shape where a < 0; vacuum shape;
update shape set d = 3; vacuum (freeze) shape; update shape set d = 4 where a % 2 = 0; select count(*) from shape; update shape set d = 5 where a % 2 = 1;

-- COPY to new pages, to pages there are, and of frozen rows.
create table copied(a int, b text, c int[]);
\copy (select i, repeat('b', i % 90), case when i % 2 = 0 then array[i, i + 1] end from generate_series(1, 1500) i) to 'copied'

\copy copied from 'copied'
delete from copied where a % 3 = 0; vacuum copied;
\copy copied from 'copied'
vacuum copied;
\copy copied from 'copied'
begin; truncate copied;
\copy copied from 'copied' with (freeze)
commit;
delete from copied where a % 400 = 1; begin;
\copy copied from 'copied'
rollback; vacuum copied; update copied set a = 0 where a = 2;
-- Indexes: bulk builds, splits to the left, in the middle and at the right, on three levels; deletion of pages and their use again.
create table tree(k text, i int); create unique index tree_k on tree(k); create index tree_i on tree(i desc); create index tree_both on tree(i, k) with (deduplicate_items = off);
insert into tree select lpad((i * 7919 % 3001)::text, 6, '0') || repeat('k', 300), i from generate_series(1, 3000) i;
insert into tree select lpad((i + 100000)::text, 6, '0') || repeat('k', 300), i from generate_series(1, 1200) i;
insert into tree select lpad((100000 - i)::text, 6, '0') || repeat('k', 300), -i from generate_series(1, 600) i;
create index tree_later on tree(k, i) with (fillfactor = 70);
delete from tree where k between '000500' and '002500'; vacuum tree; vacuum tree;
insert into tree select lpad((i * 7919 % 3001)::text, 6, '0') || repeat('m', 300), i from generate_series(1, 500) i;
delete from tree where k > '001000'; vacuum tree; vacuum tree; select txid_current(); vacuum tree;
insert into tree select lpad((i + 50000)::text, 6, '0') || repeat('n', 300), i from generate_series(1, 1500) i;
delete from tree; vacuum tree; vacuum tree; insert into tree select lpad(i::text, 6, '0') || repeat('o', 300), i from generate_series(1, 700) i;
reindex index tree_k;
-- A fast root: all but one leaf of a large tree go, then that leaf splits.
create table fast(i int primary key, k text); insert into fast select i, 'k' from generate_series(1, 4000) i; create index fast_k on fast(md5(i::text), (repeat('y', 400)));
delete from fast where i > 20; vacuum fast; vacuum fast; select txid_current();
insert into fast select i, 'again' from generate_series(5000, 6500) i; delete from fast where i > 5100; vacuum fast; insert into fast select i, 'again' from generate_series(7000, 7800) i;

-- Duplicates: posting lists made, split by an insertion, cut by vacuum, by deletion of dead items, and from the bottom up.
create table same(a int, b int, c text) with (fillfactor = 50); create index same_a on same(a); create index same_b on same(b); create index same_c on same(c, a);
insert into same select i % 5, i % 50, repeat('c', i % 4) from generate_series(1, 5000) i;
delete from same where b % 10 = 3; vacuum same; insert into same select i % 5, i % 50, 'cc' from generate_series(1, 2500) i;
delete from same where ctid in (select ctid from same where random() < 0.3); vacuum same;
insert into same select 2, i % 3, 'ccc' from generate_series(1, 2500) i; delete from same where random() < 0.05; vacuum same; insert into same select i % 7, 25, '' from generate_series(1, 900) i;
create index same_later on same(b, a); delete from same where a = 2 and random() < 0.9; vacuum same; insert into same select 2, i % 60, 'new' from generate_series(1, 1800) i;
create table churn(id int primary key, hot int, cold int); create index churn_cold on churn(cold); create index churn_hot on churn(hot);
insert into churn select i, i, i % 3 from generate_series(1, 400) i;
do $$ begin for i in 1..40 loop update churn set hot = hot + 1 where id % 4 = i % 4; commit; end loop; end $$;
do $$ begin for i in 1..30 loop update churn set cold = (cold + 1) % 3 where id % 3 = i % 3; commit; end loop; end $$;
set enable_seqscan = off; set enable_bitmapscan = off;
do $$ declare n int; begin for i in 1..60 loop delete from churn where id = i; insert into churn values (i, i, 1); commit; select count(*) into n from churn where cold = 1 and hot >= 0;
    update churn set hot = -hot where id = i + 100; end loop; end $$;
reset enable_seqscan; reset enable_bitmapscan;
create unlogged table queue(id int primary key); drop table queue;
create table line(id int primary key, what text);
do $$ begin for i in 1..20 loop insert into line select i * 100 + j, 'w' from generate_series(1, 100) j; commit; perform count(*) from line where id < i * 100; delete from line where id < i * 100; commit; perform 1 from line order by id limit 1; end loop; end $$;
insert into line select j, 'w' from generate_series(1, 2100) j on conflict do nothing; vacuum line;

-- Speculative insertions: that stay, that find a row first, and one that is taken back because a function of an index put the row there.
create table guess(a int primary key, b text unique, c text);
insert into guess select i, i::text, repeat('c', 100) from generate_series(1, 300) i on conflict do nothing;
insert into guess select i, (i + 1)::text, 'again' from generate_series(200, 400) i on conflict (a) do update set c = excluded.c;
insert into guess values (1000, '1', repeat('x', 5000)) on conflict (b) do update set c = excluded.c;
create table rival(a int, c text); 
create function rival_comes(v int, w text) returns text language plpgsql volatile as $$ begin if w <> 'rival' then insert into rival values (v, 'rival'); end if; return w; end $$;
create function rival_key(v int, w text) returns text language plpgsql immutable as $$ begin return rival_comes(v, w); end $$;
create index rival_first on rival(rival_key(a, c)); create unique index rival_then on rival(a);
insert into rival select i, 'mine' from generate_series(1, 150) i on conflict (a) do nothing; select c, count(*) from rival group by c; vacuum rival;
insert into rival select i, repeat(md5(i::text), 300) from generate_series(151, 160) i on conflict (a) do nothing; select count(*) from rival;

-- Rows that move to another partition.
create table parted(k int, v text) partition by range (k); create table parted_low partition of parted for values from (0) to (1000); create table parted_high partition of parted for values from (1000) to (9999);
create index parted_k on parted(k); insert into parted select i, repeat('p', i % 60) from generate_series(1, 1800) i;
update parted set k = k + 1000 where k % 5 = 0 and k < 1000; update parted set k = k - 900 where k between 1200 and 1400; vacuum parted; alter table parted detach partition parted_high; drop table parted_high;

-- Locks of rows: by one, by several at once, along a chain of updates; with transactions that are prepared and wait.
create table locked(id int primary key, v int, w text); insert into locked select i, i, repeat('w', 50) from generate_series(1, 600) i; vacuum locked;
select count(*) from (select 1 from locked where id <= 100 for update) x; select count(*) from (select 1 from locked where id <= 150 for share) x; vacuum (freeze) locked;
select count(*) from (select 1 from locked where id between 120 and 260 for no key update) x; select count(*) from (select 1 from locked where id <= 60 for key share) x;
begin; select count(*) from (select 1 from locked where id <= 300 for key share) x; prepare transaction 'one';
begin; select count(*) from (select 1 from locked where id between 100 and 400 for key share) x; prepare transaction 'two';
begin; select count(*) from (select 1 from locked where id between 50 and 350 for share) x; savepoint s; select count(*) from (select 1 from locked where id between 80 and 90 for no key update) x; commit;
update locked set v = v + 1 where id % 3 = 0; commit prepared 'one'; update locked set v = v + 1 where id % 3 = 1; rollback prepared 'two'; delete from locked where id % 9 = 2; vacuum locked;
begin; update locked set v = -v where id between 10 and 200; prepare transaction 'three';
select count(*) from (select 1 from locked where id < 150 for key share) x; begin; select count(*) from (select 1 from locked where id < 100 for key share) x; rollback; commit prepared 'three';
begin; select count(*) from (select 1 from locked where id > 300 for share) x; savepoint a; update locked set w = 'short' where id > 400; rollback to a; update locked set v = 0 where id > 450; delete from locked where id > 590; commit;
vacuum (freeze) locked; update locked set w = repeat('z', 70); vacuum freeze locked;
create table parent(id int primary key, v int) with (fillfactor = 50); create table child(p int references parent); insert into parent select i, 0 from generate_series(1, 200) i; vacuum parent;
insert into child select i % 200 + 1 from generate_series(1, 500) i; begin; insert into child select i from generate_series(1, 99) i; savepoint s; update parent set v = 1 where id < 150; release s; insert into child select i from generate_series(1, 99) i; commit;
delete from child where p > 100; delete from parent where id > 100; vacuum parent, child;

-- The end of a relation goes; relations come and go.
create table cut(a int primary key, b text); insert into cut select i, repeat('x', 200) from generate_series(1, 2500) i; vacuum cut; delete from cut where a > 600; vacuum cut; delete from cut where a > 40; vacuum cut;
insert into cut select i, 'back' from generate_series(3000, 3400) i; delete from cut; vacuum cut; insert into cut values (1, 'one'); truncate cut; insert into cut select i, 'two' from generate_series(1, 500) i;
begin; truncate cut; insert into cut values (1, 'aborted'); rollback; begin; create table brief(a int primary key); insert into brief select generate_series(1, 300); abort;
create table brief(a int primary key, t text); insert into brief select i, pg_temp.noise(100) from generate_series(1, 60) i; begin; drop table brief; prepare transaction 'drop'; commit prepared 'drop';
create unlogged table fleeting(a int primary key, b serial); insert into fleeting select generate_series(1, 500); alter table fleeting set logged; insert into fleeting select generate_series(501, 900); alter table fleeting set unlogged; insert into fleeting values (1000);
create temp table passing(a int); insert into passing values (1);
alter table account alter column branch type bigint;
create materialized view seen as select branch, sum(balance) from account group by branch; create unique index on seen(branch); refresh materialized view seen; refresh materialized view concurrently seen;
cluster account using account_pkey;  alter table account set tablespace pg_default; comment on table account is 'of many';
create sequence counted cache 5; select count(nextval('counted')) from generate_series(1, 200); alter sequence counted restart with 7 increment 3; select count(nextval('counted')) from generate_series(1, 100); select setval('counted', 5000);
checkpoint; select load(300); select sum(balance) from account; set wal_compression = pglz; checkpoint; select load(200); set wal_compression = zstd; vacuum freeze; select load(100);
